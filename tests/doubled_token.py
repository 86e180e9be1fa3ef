"""A trained model with a known circuit: `doubled token`, in the manner of InterpBench.

    python tests/doubled_token.py            # trains the model again, about 5 minutes of processor time

The task: a row is BEGIN, eight letters, ASK. After ASK comes the letter that stands twice in a row; BEGIN if there is
none, and each of them with the same probability if there are several. The causal model has three variables:

    previous[t] = row[t - 1];   doubled[t] = (previous[t] == row[t]);   answer = the letters where doubled

Each belongs to one node of the model (`NODES`); the three make the edges `CIRCUIT`. All other heads and MLPs should
have no effect.

Ported from InterpBench (Gupta et al. 2024, arXiv 2407.14494): strict interchange intervention training (SIIT). Each
step draws base rows and source rows, and the loss is the sum of the cross-entropies of three runs of the base rows:

- the model alone, against the answers;
- one node of `NODES` carries its output in the source rows, against the answers of the causal model with that variable
  taken from the source rows (interchange intervention training, Geiger et al. 2022, arXiv 2112.00826);
- one of all other nodes carries its output in the source rows, against the answers of the base rows.

Added here: a second stage in which most of the other nodes carry the outputs of other rows at once, alone and beside
the interchange (after the first stage each of them was without effect alone, but not all of them together), and in
which the values of L1H2 are those of a run where all of layer 0 carries the outputs of other rows.

What came out (logit difference, pairs that training did not draw): the six known edges come before the 104 others, and
keep 0.85 of the effect alone; all edges without them keep 0.01, random circuits of this size 0.00. Training names
nodes, not edges, so the model may use further edges between the known nodes a little, such as `L0H1 → logits`.

Not ported: InterpBench's 86 models and their weights, which are for TransformerLens's architecture; Tracr, which
compiles their causal models (this one is written by hand); its schedules and weights of the losses. The model is an
OLMo 2 only. In OLMo 1 the first stage did not end in this circuit (seed 0): with `previous` from the source rows, the
loss stayed at 0.4 nats. OLMo 3 was not trained.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from hooks import Edit, Olmo2Config, OlmoForCausalLM, edits

LETTERS, BEGIN, ASK = 10, 10, 11
WEIGHTS = Path(__file__).with_suffix(".safetensors")
SIZES = {
    "vocab_size": 12,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "pad_token_id": None,
    "eos_token_id": None,
}
NODES = {"previous": "L0H1", "doubled": "L0 MLP", "answer": "L1H2"}
OTHERS = ["L0H0", "L0H2", "L0H3", "L1H0", "L1H1", "L1H3", "L1 MLP"]
CIRCUIT = {
    "embed → L0H1 v",
    "embed → L0 MLP",
    "L0H1 → L0 MLP",
    "L0 MLP → L1H2 k",
    "embed → L1H2 v",
    "L1H2 → logits",
}

Variables = dict[str, Tensor]
LossesOf = Callable[[OlmoForCausalLM, int, torch.Generator], list[Tensor]]


def causal_model(rows: Tensor, taken: Variables | None = None) -> Variables:
    """The variables of rows, and which of them are `taken` from elsewhere.

    Returns:
        previous and doubled: batch pos; answer: batch vocab, the probability of each token.
    """
    found: Variables = dict(taken or {})
    found.setdefault("previous", F.pad(rows[:, :-1], (1, 0), value=-1))
    found.setdefault("doubled", found["previous"] == rows)
    counts = F.one_hot(rows, SIZES["vocab_size"]).mul(found["doubled"][..., None]).sum(1).float()
    counts[:, BEGIN] = counts.sum(1) == 0
    found.setdefault("answer", counts / counts.sum(1, keepdim=True))
    return found


def random_rows(n: int, generator: torch.Generator) -> Tensor:
    """Rows of the task, one letter doubled in half of them besides those that chance doubles: batch pos."""
    rows = torch.randint(LETTERS, (n, 10), generator=generator)
    at = torch.randint(2, 9, (n // 2,), generator=generator)
    some = torch.arange(n // 2)
    rows[some, at] = rows[some, at - 1]
    rows[:, 0], rows[:, -1] = BEGIN, ASK
    return rows


def pairs_of_rows(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Base rows and source rows; in half of them, and for another half, a letter is doubled across the two."""
    base, source = random_rows(n, generator), random_rows(n, generator)[torch.randperm(n, generator=generator)]
    at = torch.randint(2, 9, (n // 2,), generator=generator)
    some = torch.randperm(n, generator=generator)[: n // 2]
    source[some, at - 1] = base[some, at]
    return base, source


def one_doubled(n: int, generator: torch.Generator) -> Tensor:
    """Rows in which one letter is doubled: batch pos."""
    rows = random_rows(20 * n, generator)
    return rows[causal_model(rows)["doubled"].sum(1) == 1][:n]


def site_of(node: str) -> tuple[str, list[int] | None]:
    """The site of a node's output, and its head."""
    if node.endswith("MLP"):
        return f"blocks.{node[1]}.mlp_out", None
    return f"blocks.{node[1]}.attn.z", [int(node[3])]


def exchanged(node: str, source: dict[str, Tensor]) -> Edit:
    """The edit by which a node carries its output in a run of the source rows."""
    site, heads = site_of(node)
    return edits.patch(site, source, heads=heads)


def answers(model: OlmoForCausalLM, rows: Tensor, *exchanges: Edit, grad: bool = False) -> Tensor:
    """The logits after the last token, with some nodes exchanged: batch vocab."""
    return model.run(rows, edits=exchanges, grad=grad, logits_to_keep=1).logits[:, -1]


def outputs(model: OlmoForCausalLM, rows: Tensor, *, grad: bool = False) -> dict[str, Tensor]:
    """The outputs of all nodes in a run of these rows, by site."""
    return dict(model.run(rows, capture=["blocks.*.attn.z", "blocks.*.mlp_out"], grad=grad))


def untrained() -> OlmoForCausalLM:
    """The model before training."""
    return OlmoForCausalLM(Olmo2Config(**SIZES))


def trained() -> OlmoForCausalLM:
    """The model, trained from a seed."""
    torch.manual_seed(0)
    model = untrained()
    train(model, siit_losses, steps=2500, rate=4e-3, warm_up=100, seed=0)
    train(model, joint_losses, steps=3000, rate=2e-3, warm_up=50, seed=1)
    return model.eval()


def train(model: OlmoForCausalLM, losses_of: LossesOf, *, steps: int, rate: float, warm_up: int, seed: int) -> None:
    """Train for so many steps on a sum of losses: AdamW, warm-up, then a cosine down to 0."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / warm_up) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    for step in range(steps):
        losses = losses_of(model, step, generator)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{step:5d}  " + "  ".join(f"{loss.item():.4f}" for loss in losses), flush=True)


def siit_losses(model: OlmoForCausalLM, step: int, generator: torch.Generator) -> list[Tensor]:
    """The losses of the three runs of one step."""
    base, source = pairs_of_rows(256, generator)
    variable, node = list(NODES.items())[step % len(NODES)]
    other = OTHERS[int(torch.randint(len(OTHERS), (), generator=generator))]
    of_source, plain = outputs(model, source, grad=True), causal_model(base)["answer"]
    taken = causal_model(base, {variable: causal_model(source)[variable]})["answer"]
    return [
        excess(answers(model, base, grad=True), plain),
        excess(answers(model, base, exchanged(node, of_source), grad=True), taken),
        excess(answers(model, base, exchanged(other, of_source), grad=True), plain),
    ]


def joint_losses(model: OlmoForCausalLM, step: int, generator: torch.Generator) -> list[Tensor]:
    """The same, with about seven in ten of the other nodes exchanged at once; and a run for the values of L1H2."""
    base, source = pairs_of_rows(96, generator)
    variable, node = list(NODES.items())[step % len(NODES)]
    some = [other for other in OTHERS if torch.rand((), generator=generator) < 0.7]
    of_source, plain = outputs(model, source, grad=True), causal_model(base)["answer"]
    taken = causal_model(base, {variable: causal_model(source)[variable]})["answer"]
    of_others = outputs(model, source.roll(1, 0), grad=True)
    away = [exchanged(other, of_others) for other in some]
    values = values_without_layer_0(model, base, of_others)
    return [
        excess(answers(model, base, grad=True), plain),
        excess(answers(model, base, *away, grad=True), plain),
        excess(answers(model, base, exchanged(node, of_source), *away, grad=True), taken),
        excess(answers(model, base, *values, *away, grad=True), plain),
    ]


def values_without_layer_0(model: OlmoForCausalLM, base: Tensor, of_others: dict[str, Tensor]) -> tuple[Edit, ...]:
    """The edit by which the values of L1H2 have the embedding of the base rows, and of layer 0 only other rows."""
    site = "blocks.1.attn.v"
    away = [exchanged(node, of_others) for node in ("L0H0", "L0H1", "L0H2", "L0H3", "L0 MLP")]
    values = model.run(base, edits=away, capture=[site], grad=True)
    return (edits.patch(site, {site: values[site]}, heads=[2]),)


def excess(logits: Tensor, wanted: Tensor) -> Tensor:
    """The mean divergence KL(wanted ‖ model), in nats."""
    return F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean")


def doubled_token_model() -> OlmoForCausalLM:
    """The trained model, from its file."""
    model = untrained()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


if __name__ == "__main__":
    save_file(trained().state_dict(), WEIGHTS)

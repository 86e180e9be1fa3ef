"""Two processes with half a model each give the same as one whole model, at every site and for every edit.

Under pytest, this file starts two processes with the variables of torchrun; there it runs as the worker.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM, edits
from tests.preloaded import interpreter, python

CASES = {
    "olmo": ("olmo", {"num_key_value_heads": 2, "clip_qkv": 0.8}),
    "olmo-bias-tied": ("olmo", {"attention_bias": True, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
    "olmo3": ("olmo3", {}),
}
CHANGES = {
    "zero z of heads 1 and 2": lambda: [edits.zero("blocks.1.attn.z", heads=[1, 2])],
    "scale q of head 3": lambda: [edits.scale("blocks.2.attn.q", 2.0, heads=[3])],
    "scale k of head 1": lambda: [edits.scale("blocks.0.attn.k", -1.0, heads=[1])],
    "zero the pattern of head 2 at 5": lambda: [edits.zero("blocks.3.attn.pattern", heads=[2], positions=[5])],
    "zero the result of head 0": lambda: [edits.zero("blocks.1.attn.result", heads=[0])],
    "shrink the upper half of the neurons": lambda: [edits.apply("blocks.2.mlp.post", _shrink_upper_half)],
    "clamp the logits": lambda: [edits.clamp("logits", -1.0, 1.0)],
}


def _shrink_upper_half(x: Tensor) -> Tensor:
    return torch.cat([x[..., :24], 0.1 * x[..., 24:]], dim=-1)


def measure(model: OlmoForCausalLM, tokens: Tensor) -> dict[str, Tensor]:
    """All tensors that are compared between a whole model and its shards."""
    everything = model.run(tokens, capture="*")
    found = {f"site {name}": everything[name] for name in everything}
    found |= {"logits": model(tokens).logits, "logits of a run": everything.logits}
    for name, change in CHANGES.items():
        found[name] = model.run(tokens, edits=change()).logits
    rows = model.run(tokens, capture=Capture("blocks.2.attn.pattern", heads=[3, 1], queries=[-1]))
    found["rows"] = rows["blocks.2.attn.pattern"]
    change = CHANGES["zero z of heads 1 and 2"]()
    found["text"] = model.generate(tokens, max_new_tokens=4, do_sample=False, edits=change)
    slope = model.run(tokens, capture="blocks.1.resid_post", grad=True)
    found["gradient"] = torch.autograd.grad(slope.logits[:, -1, 3].sum(), slope["blocks.1.resid_post"])[0]
    return {name: value.detach() for name, value in found.items()}


def worker(folder: Path, rank: int) -> None:
    """One of the two processes: measures its shard of every model and writes the results."""
    from transformers.distributed import DistributedConfig

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    tokens, results = torch.load(folder / "tokens.pt"), {}
    for case in CASES:
        model = OlmoForCausalLM.from_pretrained(folder / case, distributed_config=DistributedConfig(tp_size=2)).eval()
        held = model.model.layers[0].mlp.up_proj.weight.to_local().shape[0]
        results[case] = measure(model, tokens) | {"neurons held": torch.tensor(held)}
    torch.save(results, folder / f"rank{rank}.pt")


def test_two_shards_are_one_model(make_model, tokens, tmp_path):
    whole = {}
    torch.save(tokens, tmp_path / "tokens.pt")
    for case, (family, options) in CASES.items():
        model = make_model(family, **options)
        model.save_pretrained(tmp_path / case)
        whole[case] = measure(model, tokens)
    interpreter()  # started here, and not by both threads
    with ThreadPoolExecutor(2) as both:
        for done in both.map(lambda rank: python(__file__, tmp_path, env=os.environ | of_rank(rank)), (0, 1)):
            assert done.returncode == 0, done.stderr[-6000:]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        for case, wanted in whole.items():
            assert found[case].pop("neurons held") == 24
            assert found[case].keys() == wanted.keys()
            for name, value in wanted.items():
                assert_same(f"{case}, process {rank}, {name}", found[case][name], value)


def of_rank(rank: int) -> dict[str, str]:
    """The variables by which torchrun tells a process its place among two of one machine."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def assert_same(what: str, found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape, what
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-4, msg=lambda text: f"{what}: {text}")


if __name__ == "__main__":
    worker(Path(sys.argv[1]), int(os.environ["RANK"]))
    torch.distributed.destroy_process_group()

"""The effect of replacing a head, an MLP or another part of one checkpoint by the same part of another checkpoint.

The method is activation patching between models (model stitching: Lenc and Vedaldi 2015, arXiv 1411.5908; CMAP: Prakash
et al. 2024, arXiv 2402.14811). Either the weights of the part or its activations are exchanged.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, Run, edits
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import Reader, block_products, peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.named_tensors import NamedTensors, weights_of
from workbench.analyses.support.next_tokens import CHUNK_BYTES, next_token_statistics
from workbench.analyses.support.part_swap import Part, grafted, part_tensors
from workbench.analyses.support.two_models import ModelOrName, config_of, loaded_model, name_of, reader
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.progress import part as stage
from workbench.results import Grid, Measures, Scores
from workbench.texts import Batch, Texts, TextsLike

CAPTURED = ("attn.z", "attn_out", "mlp_out", "resid_post")
WHOLE = {"weights": ("attention", "mlp", "layer"), "activations": ("attention", "mlp", "residual")}
"""Kinds of parts other than heads, by what is exchanged."""

Donor = NamedTensors | list[dict[str, Tensor]]
"""What A provides: its tensors, read when they are needed; or, for each batch of texts, the activations of its parts,
by site.
"""


def transplant(
    a: ModelOrName,
    b: ModelOrName,
    tokens: TextsLike,
    part: Part | str,
    *,
    using: str = "weights",
    target: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """The change of B's loss on texts when one part of B is replaced by the same part of A.

    `part` is a `part_swap.Part` or its name: `L2H1`, `L2 mlp`, `L2 attention`, `L2 layer`, `L2 residual`.

    `using` decides what is exchanged:

    - "weights": B has A's parameters of the part and applies them to its own residual stream. The parameters of a head
      are its rows of W_Q, its columns of W_O and its part of the q norm. Keys and values are exchanged too if all query
      heads that share them are exchanged, as is always the case without grouped queries. MLP and attention include
      their own norms.
    - "activations": the output of the part in B is replaced by its output in A's run over the same tokens.

    Returns Scores in nats: `loss of B`, `loss with the part of A`, and `effect on loss`, the second minus the first
    (positive: the loss is higher with A's part). Losses are means over all tokens except the first of each text. With a
    `target`, a token id, there are three more: its log-probability after the last token, mean over the texts (`target
    in B`, `target with the part of A`), and their difference, `effect on target` (positive: A's part makes it
    likelier). All have standard errors over texts.

    Errors: WorkbenchError if there is no such part, or A and B differ in the shapes of their parameters.
    """
    texts = texts_for(config_of(b), tokens, at_least=2)
    part = Part.named(part) if isinstance(part, str) else part
    batches = _batches(a, b, texts, 1, using)
    donor = _donor(a, batches, [part.layer], using, stage(progress, 0.0, 0.4))
    model = loaded_model(b, stage(progress, 0.4, 0.8))
    means = MeansOverTexts()  # 1|2 (before, after, change)
    for number, batch in enumerate(steps(batches, stage(progress, 0.8, 1.0), f"transplanting {part}")):
        ids = batch.ids.to(model.device)
        before, after = (
            _loss_sums(model.run(ids), ids, target),
            _loss_sums(_with_part(model, ids, donor, number, part), ids, target),
        )
        both = torch.cat([before, after], dim=-1)
        refuse_undefined(both, f"prediction with {part} of A or without", texts, batch.rows)
        means.add(torch.stack([before, after, after - before], dim=-1), _divisors(ids, target)[:, None])
    names = [
        name
        for what, of_b in (("loss", "loss of B"), ("target", "target in B"))[: len(means.values)]
        for name in (of_b, f"{what} with the part of A", f"effect on {what}")
    ]
    return Scores(
        means.values.flatten(),
        names,
        title=f"{name_of(b, 'B')} with {part} of {name_of(a, 'A')} ({using})",
        value_name="loss or log-probability",
        unit="nats",
        signed=True,
        value_when_equal=[0.0 if name.startswith("effect") else math.nan for name in names],
        errors=None if means.errors is None else means.errors.flatten(),
        texts=means.texts,
    )


def transplant_parts(
    a: ModelOrName,
    b: ModelOrName,
    tokens: TextsLike,
    *,
    kinds: Sequence[str] | None = None,
    using: str = "weights",
    target: int | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The change of B's loss when each part of B, one at a time, is replaced by the same part of A (see `transplant`).

    Returns Grids of layer × part, in nats, with standard errors over texts: `loss`, the change of B's loss; and with a
    `target`, a token id, also `target`, the change of its log-probability after the last token.

    `kinds` are the kinds of parts to exchange; None means all of them: `head` (one column for each), `attention`,
    `mlp`, and the whole layer. The whole layer is `layer` with weights. With activations it is `residual`: A's residual
    stream after the layer replaces that of B. Each run starts at the layer of the part, from B's own residual stream.

    Errors: WorkbenchError for an unknown kind, and as in `transplant`.
    """
    texts, kinds = texts_for(config_of(b), tokens, at_least=2), _kinds(kinds, using)
    batches = _batches(a, b, texts, config_of(a).num_hidden_layers, using)
    # A runs before B is loaded, so only one of the two is in memory at a time.
    donor = _donor(a, batches, None, using, stage(progress, 0.0, 0.1))
    model = loaded_model(b, stage(progress, 0.1, 0.2))
    layers, heads = range(model.config.num_hidden_layers), range(model.config.num_attention_heads)
    columns = [(kind, some) for kind in kinds for some in ([(head,) for head in heads] if kind == "head" else [()])]
    grid = [Part(kind, layer, some) for layer in layers for kind, some in columns]
    effects = MeansOverTexts()  # part 1|2
    for number, batch in enumerate(batches):
        ids = batch.ids.to(model.device)
        own = model.run(ids, capture="blocks.*.resid_pre")
        before, rows = _loss_sums(own, ids, target), []
        ends = (0.2 + 0.8 * n / len(batches) for n in (number, number + 1))
        for one in steps(grid, stage(progress, *ends), "transplanting parts"):
            run = _with_part(model, ids, donor, number, one, own[f"blocks.{one.layer}.resid_pre"])
            rows.append(_loss_sums(run, ids, target) - before)  # text 1|2
        refuse_undefined(torch.stack(rows, dim=1), "effect of A's parts", texts, batch.rows)
        effects.add(torch.stack(rows, dim=1), _divisors(ids, target)[None])
    return _effect_grids(effects, layers, columns, (name_of(b, "B"), f"{name_of(a, 'A')} ({using})"))


def _effect_grids(
    effects: MeansOverTexts, layers: range, columns: Sequence[tuple[str, tuple[int, ...]]], models: tuple[str, str]
) -> Measures:
    """The effects of all parts as grids of layer × part.

    Args:
        effects: part 1|2, the parts layer by layer.
        layers: the layers.
        columns: kind and heads of the parts of each layer.
        models: the model, and the one that its parts are from, in words.
    """
    values, errors = (
        None if means is None else means.T.reshape(-1, len(layers), len(columns))
        for means in (effects.values, effects.errors)
    )
    assert values is not None
    what = "head" if {kind for kind, _ in columns} == {"head"} else "part"
    names = {"loss": "loss", "target": "log-probability of the target"}
    return Measures(
        **{
            name: Grid(
                values[number],
                layers,
                [some[0] if some else "MLP" if kind == "mlp" else kind for kind, some in columns],
                column_name=what,
                title=f"{models[0]} with one {what} of {models[1]}: change of {names[name]}",
                value_name=f"change of {names[name]}",
                unit="nats",
                signed=True,
                errors=None if errors is None else errors[number],
                texts=effects.texts,
            )
            for number, name in enumerate(["loss", "target"][: len(values)])
        }
    )


def _kinds(kinds: Sequence[str] | None, using: str) -> tuple[str, ...]:
    """The kinds of parts to exchange: all possible ones if None. Errors: WorkbenchError for an unknown kind."""
    there = ("head", *WHOLE.get(using, ()))
    if unknown := [kind for kind in kinds or () if kind not in there]:
        raise WorkbenchError(f"no parts of kind {unknown[0]!r} with {using}; choices: {', '.join(there)}")
    return there if kinds is None else tuple(kinds)


def with_part(
    a: OlmoForCausalLM, b: OlmoForCausalLM, kind: str, layer: int, heads: Sequence[int] = ()
) -> OlmoForCausalLM:
    """A model with the weights of B, except for one part, which has the weights of A (see `part_swap.Part`). B is
    unchanged.

    Errors: WorkbenchError if there is no such part, or A and B differ in the shapes of their parameters.
    """
    part = Part(kind, layer, tuple(heads))
    _there(b, part)
    return grafted(b, part_tensors(weights_of(a), part), part)


def _batches(a: ModelOrName, b: ModelOrName, texts: Texts, layers: int, using: str) -> list[Batch]:
    """Batches of texts that fit into memory, with A's parts of `layers` layers."""
    sizes = [
        tokens_at_a_time(model, "transplant", per_token, texts.longest, fixed=fixed)
        for model, per_token, fixed in _bytes(a, b, texts, layers, using)
    ]
    return texts.batches(min(sizes))


def _bytes(a: ModelOrName, b: ModelOrName, texts: Texts, layers: int, using: str) -> list[tuple[Reader, float, float]]:
    """Each model with two numbers of bytes: for each token of a batch, all logits of a run and B's residual streams;
    and of A's parts in `layers` layers: their activations, or the weights of one part with a copy.
    """
    config = config_of(b)
    kept = 2 * 4 * block_products(config)
    if using == "activations":
        kept = 4 * len(CAPTURED) * layers * texts.tokens * config.hidden_size
    streams = 4 * (config.num_hidden_layers + len(CAPTURED) * layers) * config.hidden_size
    return [(reader(one), run_bytes(reader(one), logits=3) + streams, CHUNK_BYTES + kept) for one in (a, b)]


def _peak(a: ModelOrName, b: ModelOrName, texts: Texts, layers: int, using: str) -> float:
    """The peak memory besides the models, in bytes."""
    return max(
        peak_bytes(model, "transplant", per_token, texts.longest, texts.tokens, fixed=fixed)
        for model, per_token, fixed in _bytes(a, b, texts, layers, using)
    )


@work_of(transplant)
def _work(
    a: ModelOrName, b: ModelOrName, tokens: TextsLike, part: Part | str, *, using: str = "weights", **_: object
) -> Work:
    texts = texts_for(config_of(b), tokens, at_least=2)
    part, count = Part.named(part) if isinstance(part, str) else part, texts.tokens
    flops = pass_flops(reader(b), 2 * count, logits=2 * count)
    flops += pass_flops(reader(a), count, part.layer + 1) if using == "activations" else 0
    return Work(flops, nbytes=_peak(a, b, texts, 1, using))


@work_of(transplant_parts)
def _work_of_parts(
    a: ModelOrName,
    b: ModelOrName,
    tokens: TextsLike,
    *,
    kinds: Sequence[str] | None = None,
    using: str = "weights",
    **_: object,
) -> Work:
    texts, config = texts_for(config_of(b), tokens, at_least=2), config_of(b)
    layers, parts = config.num_hidden_layers, len(_kinds(kinds, using))
    parts += config.num_attention_heads - 1 if "head" in _kinds(kinds, using) else 0
    blocks = layers + parts * layers * (layers + 1) // 2  # of B's own run, and of the runs from each layer on
    flops = pass_flops(reader(b), texts.tokens, blocks, logits=texts.tokens * (1 + parts * layers))
    flops += pass_flops(reader(a), texts.tokens) if using == "activations" else 0
    return Work(flops, nbytes=_peak(a, b, texts, layers, using))


def _donor(
    a: ModelOrName, batches: Sequence[Batch], layers: Sequence[int] | None, using: str, progress: Progress | None
) -> Donor:
    """The tensors of A, or the activations of its parts in some layers (in all layers if None)."""
    if using == "weights":
        return weights_of(a)
    if using != "activations":
        raise WorkbenchError(f"using={using!r}; choices: weights, activations")
    model = loaded_model(a, progress)
    layers = chosen(layers, model.config.num_hidden_layers, "layer")
    capture = [f"blocks.{layer}.{site}" for layer in layers for site in CAPTURED]
    runs = (model.run(batch.ids.to(model.device), capture=capture, captures_only=True) for batch in batches)
    return [{site: run[site].cpu() for site in run} for run in runs]


def _with_part(
    model: OlmoForCausalLM, ids: Tensor, donor: Donor, number: int, part: Part, resid: Tensor | None = None
) -> Run:
    """B's run over batch `number` with one part replaced by A's. If `resid` is given, the run starts at the layer of
    the part; `resid` is the residual stream that enters it.
    """
    _there(model, part)
    where = {"input_ids": ids} if resid is None else {"start_at_layer": part.layer, "resid": resid}
    if isinstance(donor, list):
        return model.run(**where, edits=_edits(donor[number], part))
    mixed = grafted(model, part_tensors(donor, part), part)
    with mixed.tapped(edits=model.tapped_edits):
        return mixed.run(**where)


def _there(model: OlmoForCausalLM, part: Part) -> None:
    """Raise WorkbenchError unless the model has this part."""
    chosen([part.layer], model.config.num_hidden_layers, "layer")
    chosen(part.heads, model.config.num_attention_heads, "head")


def _edits(written: dict[str, Tensor], part: Part) -> list[Edit]:
    block, heads = f"blocks.{part.layer}.", list(part.heads)
    if part.kind == "head":
        return [edits.replace(block + "attn.z", written[block + "attn.z"][:, :, heads], heads=heads)]
    sites = {
        "attention": ("attn_out",),
        "mlp": ("mlp_out",),
        "layer": ("attn_out", "mlp_out"),
        "residual": ("resid_post",),
    }[part.kind]
    return [edits.replace(block + site, written[block + site]) for site in sites]


def _loss_sums(run: Run, ids: Tensor, target: int | None) -> Tensor:
    """The sum of the losses of all tokens of each text except the first, and with a target its log-probability after
    the last token: text 1|2, float64.
    """
    logits = run.logits
    losses = next_token_statistics(logits[:, :-1], ids[:, 1:].to(logits.device))["loss"].double().sum(1)
    if target is None:
        return losses[:, None].cpu()
    chosen([target], logits.shape[-1], "token")
    return torch.stack([losses, logits[:, -1].float().log_softmax(-1)[:, target].double()], dim=1).cpu()


def _divisors(ids: Tensor, target: int | None) -> Tensor:
    """The number of losses and of targets in the sums over each text of a batch: 1|2."""
    return torch.tensor([ids.shape[1] - 1, 1][: 1 if target is None else 2], dtype=torch.float64)

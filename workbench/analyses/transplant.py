"""What changes when a checkpoint runs with a part of another: which head, MLP or layer carries a difference.

The idea is that of activation patching between models (model stitching: Lenc and Vedaldi 2015, arXiv 1411.5908;
CMAP: Prakash et al. 2024, arXiv 2402.14811), with the part's weights as well as with its activations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, Run, edits
from workbench.analyses.common import as_batch, chosen, next_token_statistics
from workbench.analyses.grafting import Part, grafted, part_tensors
from workbench.analyses.pairs import Subject, name_of, opened
from workbench.analyses.tensors import NamedTensors, weights_of
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.progress import part as stage
from workbench.results import Grid, Measures, Scores

CAPTURED = ("attn.z", "attn_out", "mlp_out", "resid_post")
WHOLE = {"weights": ("attention", "mlp", "layer"), "activations": ("attention", "mlp", "residual")}
"""Parts of a layer that can be exchanged as a whole."""


def transplant(
    a: Subject,
    b: Subject,
    tokens: Tensor,
    part: Part | str,
    *,
    using: str = "weights",
    target: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Run B with one part taken from A, and see what that does to its loss on a text, and to a target.

    `part` is a `grafting.Part` or its name: `L2H1`, `L2 mlp`, `L2 attention`, `L2 layer`, `L2 residual`.
    `using` "weights": B has A's parameters there and computes with them on its own residual stream. `using`
    "activations": the part writes what it wrote in A's run over the same tokens. A head has its rows of q, its columns
    of o and its part of the q norm; keys and values go along where all query heads that share them do, which is always
    so without grouped queries. An MLP and attention have the norms that are theirs alone.

    Scores: `loss of B`, `loss with the part of A`, `effect on loss` (positive: A's part does worse in B); with a
    `target`, a token id, also its log-probability after the last token: `target in B`, `target with the part of A`,
    `effect on target`.
    Errors: WorkbenchError if there is no such part, or A and B are not of one shape.
    """
    batch = as_batch(tokens, at_least=2)
    part = Part.named(part) if isinstance(part, str) else part
    donor = _donor(a, batch, [part.layer], using, stage(progress, 0.0, 0.4))
    model = opened(b, stage(progress, 0.4, 0.8))
    runs = (lambda: model.run(batch.to(model.device)), lambda: _with_part(model, batch, donor, part))
    before, after = (
        _outcome(run(), batch, target) for run in steps(runs, stage(progress, 0.8, 1.0), f"transplanting {part}")
    )
    names = ["loss", "target"][: len(before)]
    numbers: dict[str, float] = {}
    for name, old, new in zip(names, before, after, strict=True):
        what = "loss of B" if name == "loss" else "target in B"
        numbers |= {what: old, f"{name} with the part of A": new, f"effect on {name}": new - old}
    return Scores(
        list(numbers.values()),
        list(numbers),
        title=f"{name_of(b, 'B')} with {part} of {name_of(a, 'A')} ({using})",
        value_name="loss or log-probability",
        unit="nats",
        signed=True,
    )


def transplant_parts(
    a: Subject,
    b: Subject,
    tokens: Tensor,
    *,
    kinds: Sequence[str] | None = None,
    using: str = "weights",
    target: int | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The effect of every part of A in B, one at a time. Grids layer × part: `loss`, the change of B's loss, and with
    a `target` also `target`, the change of its log-probability after the last token.

    `kinds` of parts, all of them where None: `head` (a column each), `attention`, `mlp`, and all of a layer: `layer`,
    its weights; or with activations `residual`, A's residual stream where it leaves the layer, with which B goes on
    from what A has made of the text so far. See `transplant`. Each run starts at the part's layer, from B's own
    residual stream.
    """
    batch, kinds = as_batch(tokens, at_least=2), _kinds(kinds, using)
    # A before B, so that one model is in memory at a time.
    donor = _donor(a, batch, None, using, stage(progress, 0.0, 0.1))
    model = opened(b, stage(progress, 0.1, 0.2))
    layers, heads = range(model.config.num_hidden_layers), range(model.config.num_attention_heads)
    columns = [(kind, some) for kind in kinds for some in ([(head,) for head in heads] if kind == "head" else [()])]
    grid = [Part(kind, layer, some) for layer in layers for kind, some in columns]
    own = model.run(batch.to(model.device), capture="blocks.*.resid_pre")
    before = _outcome(own, batch, target)
    effects = []
    for one in steps(grid, stage(progress, 0.2, 1.0), "transplanting parts"):
        run = _with_part(model, batch, donor, one, own[f"blocks.{one.layer}.resid_pre"])
        effects.append([new - old for new, old in zip(_outcome(run, batch, target), before, strict=True)])
    values = torch.tensor(effects).T.reshape(len(before), len(layers), len(columns))
    what = "head" if kinds == ("head",) else "part"
    names = {"loss": "loss", "target": "log-probability of the target"}
    return Measures(
        **{
            name: Grid(
                grid_values,
                layers,
                [some[0] if some else "MLP" if kind == "mlp" else kind for kind, some in columns],
                column_name=what,
                title=f"{name_of(b, 'B')} with one {what} of {name_of(a, 'A')} ({using}): change of {names[name]}",
                value_name=f"change of {names[name]}",
                unit="nats",
                signed=True,
            )
            for name, grid_values in zip(["loss", "target"], values, strict=False)
        }
    )


def _kinds(kinds: Sequence[str] | None, using: str) -> tuple[str, ...]:
    """The kinds of parts that can be exchanged; all of them where None."""
    there = ("head", *WHOLE.get(using, ()))
    if unknown := [kind for kind in kinds or () if kind not in there]:
        raise WorkbenchError(f"no kind {unknown[0]!r} of parts with {using}; choices: {', '.join(there)}")
    return there if kinds is None else tuple(kinds)


def with_part(
    a: OlmoForCausalLM, b: OlmoForCausalLM, kind: str, layer: int, heads: Sequence[int] = ()
) -> OlmoForCausalLM:
    """B with the weights of one part of A (see `grafting.Part`), a model to run or to write text with; B is unchanged.

    Errors: WorkbenchError if there is no such part, or A and B are not of one shape.
    """
    part = Part(kind, layer, tuple(heads))
    _there(b, part)
    return grafted(b, part_tensors(weights_of(a), part), part)


def _donor(
    a: Subject, batch: Tensor, layers: Sequence[int] | None, using: str, progress: Progress | None
) -> NamedTensors | dict[str, Tensor]:
    """A's tensors, read when they are needed; or what its parts wrote in a run over the tokens, by site."""
    if using == "weights":
        return weights_of(a)
    if using != "activations":
        raise WorkbenchError(f"using={using!r}; choices: weights, activations")
    model = opened(a, progress)
    layers = chosen(layers, model.config.num_hidden_layers, "layer")
    capture = [f"blocks.{layer}.{site}" for layer in layers for site in CAPTURED]
    run = model.run(batch.to(model.device), capture=capture, captures_only=True)
    return {site: run[site].cpu() for site in run}


def _with_part(
    model: OlmoForCausalLM,
    batch: Tensor,
    donor: NamedTensors | dict[str, Tensor],
    part: Part,
    resid: Tensor | None = None,
) -> Run:
    """B's run with the part, of A's tensors or of what A's parts wrote; from the part's layer on, where its residual
    stream there is given."""
    _there(model, part)
    changes: list[Edit] = []
    if isinstance(donor, dict):
        changes = _edits(donor, part)
    else:
        model = grafted(model, part_tensors(donor, part), part)
    if resid is None:
        return model.run(batch.to(model.device), edits=changes)
    return model.run(start_at_layer=part.layer, resid=resid, edits=changes)


def _there(model: OlmoForCausalLM, part: Part) -> None:
    """Raise WorkbenchError unless the model has such a part."""
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


def _outcome(run: Run, batch: Tensor, target: int | None) -> list[float]:
    """The mean loss, and with a target its mean log-probability after the last token."""
    logits = run.logits
    losses = next_token_statistics(logits[:, :-1], batch[:, 1:].to(logits.device))["loss"]
    if target is None:
        return [losses.mean().item()]
    chosen([target], logits.shape[-1], "token")
    return [losses.mean().item(), logits[:, -1].float().log_softmax(-1)[:, target].mean().item()]

"""Which activations carry the difference between two prompts."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.errors import UnknownSite
from hooks.sites import IN_BLOCK
from workbench.analyses.cells import KEYS_AND_VALUES, RESIDUALS, Swap, groups, one_each, swept
from workbench.analyses.contrast import Contrast, Metric, Target, contrast, grids, scale_between
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Measures
from workbench.text import Tokenizer, token_labels

AXES = {"position": ("pos", "query"), "head": ("head", "kv_head")}
POSITIONS = 4  # whose cells run together: fewer spare more of the text before them, more make fuller batches


def activation_patching(
    model: OlmoForCausalLM,
    clean: Tensor,
    corrupted: Tensor,
    token: Target | None = None,
    against: Target | None = None,
    *,
    metric: Metric | None = None,
    site: str = "resid_pre",
    by: str = "position",
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """Run the corrupted prompt with one activation of the clean one: how much of the clean answer does it bring back?

    Grids layer × position (`by="position"`), or layer × head over all positions (`by="head"`), of what is read off the
    next token after `position`: the `logit` of `token`, or its `logit_difference` from that of `against`; its
    `probability`; and `kl`, KL(clean ‖ run). Each is normalised, (run − corrupted) / (clean − corrupted): 0 is the
    corrupted run and 1 the clean one. Their raw values are in the title and the provenance (`at 0`, `at 1`). Exchange
    the prompts to see what the clean run loses instead (Meng et al. 2022, "Locating and editing factual associations
    in GPT"; Heimersheim and Nanda 2024, "How to use and interpret activation patching").

    `metric`, a function of the logits (text 1 vocab: of the next token after `position`) that returns a number, or one
    for each text, is measured as `metric`, beside the others or, without a `token`, instead of them.

    `clean` and `corrupted` are a prompt each, or batches of pairs (measures are then means over the pairs, and targets
    one for all or one for each), equal in length token for token. `site` is one within a block: `resid_pre`,
    `attn_out`, `mlp_out`, `attn.z`, `attn.pattern`, `mlp.post`, …, in our spelling or TransformerLens's.

    Errors: WorkbenchError if the prompts differ in length or not at all, a target is not one token, or the site has no
    such axis.
    """
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer, metric)
    site, axis = site_and_axis(model, site, by)
    clean_run = model.run(pair.clean, capture=f"blocks.*.{site}", logits_to_keep=1)
    base = model.run(pair.corrupted, capture=[RESIDUALS, *KEYS_AND_VALUES], logits_to_keep=1)
    scale = scale_between(pair, clean_run.logits, base.logits, one="clean")
    sites = [f"blocks.{layer}.{site}" for layer in range(model.config.num_hidden_layers)]
    names, differ = column_names(model, pair, axis, tokenizer), pair.first_difference
    size = len(names)
    cells, at_most = (range(differ, size), POSITIONS) if by == "position" else (range(size), size)
    # Nothing differs before the first position at which the prompts do, so that nothing is computed for it.
    found = {name: [torch.zeros(len(sites), cells.start, dtype=torch.double)] for name in pair.measures}
    for columns in steps(groups(cells, pair.clean.numel() * len(sites), at_most), progress, f"patching {site}"):
        swaps = [Swap(name, clean_run[name], one_each(model.sites[name], axis, columns, size)) for name in sites]
        logits = swept(model, base, swaps, start=columns.start if by == "position" else differ)
        measures = scale.normalised(logits.unflatten(0, (len(sites) * len(columns), -1)))  # (layer column) each
        for name, value in measures.items():
            found[name].append(value.cpu().unflatten(0, (len(sites), -1)))
    values = {name: torch.cat(parts, dim=1) for name, parts in found.items()}  # layer column
    title = f"Patching {site} from the clean prompt"
    return grids(scale, values, range(len(sites)), names, by, title)


def site_and_axis(model: OlmoForCausalLM, site: str, by: str) -> tuple[str, str]:
    """Our spelling of a site in a block, and the word for its axis that a grid has as its columns.

    Raises WorkbenchError if there is no such site, or it has no such axis.
    """
    if by not in AXES:
        raise WorkbenchError(f"by={by!r}; choices: {', '.join(AXES)}")
    axes = {name: next((word for word in shape.split() if word in AXES[by]), None) for name, shape in IN_BLOCK.items()}
    try:
        name = model.sites.in_block(site)
    except UnknownSite as error:
        raise WorkbenchError(str(error)) from error
    axis = axes[name]
    if axis is None:
        choices = ", ".join(name for name in axes if axes[name] is not None)
        raise WorkbenchError(f"no site {site!r} in a block that has a {by} axis; choices: {choices}")
    return name, axis


def column_names(model: OlmoForCausalLM, pair: Contrast, axis: str, tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """What the columns of a grid over an axis are called: heads by number, positions by the clean prompt's tokens."""
    if axis in AXES["head"]:
        return tuple(str(head) for head in range(model.sites.sizes[axis]))
    return token_labels(pair.clean[0], tokenizer)

"""Which activations carry the difference between two prompts."""

import torch

from hooks import OlmoForCausalLM, Run
from hooks.errors import UnknownSite
from hooks.sites import IN_BLOCK
from workbench.analyses.support.batched_runs import KEYS_AND_VALUES, RESIDUALS, Swap, groups, one_each, swept
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import run_bytes
from workbench.analyses.support.prompt_pairs import (
    Contrast,
    LogitsMetric,
    MeasureValues,
    NormalisedMeans,
    Pairs,
    TokenLike,
    batches_in_memory,
    contrast,
    ends_of,
    ends_of_others,
    grids,
    last_logits_bytes,
    log_probabilities,
    measured,
    outlined,
    scale_between,
)
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels

AXES_OF = {"position": ("pos", "query"), "head": ("head", "kv_head")}
POSITIONS = 4  # patched together in one batch: fewer skip more of the text before them, more make fuller batches


def activation_patching(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike | None = None,
    against: TokenLike | None = None,
    *,
    metric: LogitsMetric | None = None,
    site: str = "resid_pre",
    by: str = "position",
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """How much of the clean answer returns when the corrupted prompt runs with one activation of the clean run.

    Returns Grids of layer × position (`by="position"`), or of layer × head with all positions patched (`by="head"`).
    They measure the prediction of the next token after `position`:

    - `logit` of `token`, or with `against` the `logit_difference` of the two tokens;
    - `probability` of `token`;
    - `kl`, KL(clean ‖ run).

    Each measure is normalised, (run − corrupted) / (clean − corrupted): 0 is the corrupted run and 1 is the clean run,
    and values below 0 and above 1 are possible. The raw values of both ends are in the title and the provenance (`at
    0`, `at 1`). Exchange the two prompts to measure what the clean run loses instead (Meng et al. 2022, "Locating and
    editing factual associations in GPT"; Heimersheim and Nanda 2024, "How to use and interpret activation patching").

    `metric` is a function of the logits of the next token after `position`, text 1 vocab. It returns one number, or one
    for each text. Its Grid is called `metric`; it is returned with the others, or alone if there is no `token`.

    `clean` and `corrupted` are one prompt each, or two sets of equally many prompts. Measures of sets are means over
    the pairs, with standard errors over pairs; `token` and `against` are then one for all pairs, or one for each pair.
    The two prompts of a pair must have equal length; `by="position"` needs one length for all pairs.

    `site` is a site within a block: `resid_pre`, `attn_out`, `mlp_out`, `attn.z`, `attn.pattern`, `mlp.post`, …,
    spelled as in this project or as in TransformerLens.

    Errors: WorkbenchError if the prompts differ in length or not at all, a target is not one token, or the site has no
    position or head axis as `by` requires.
    """
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer, metric)
    site, axis = site_and_axis(model, site, by)
    sites = [f"blocks.{layer}.{site}" for layer in range(model.config.num_hidden_layers)]
    names = column_names(model, pair, axis, tokenizer)
    batches, size = _batches(model, pair, site)
    runs = _runs(model, batches[0], site)
    ends = [ends_of(pair, batches[0], *(run.logits for run in runs)), *ends_of_others(model, pair, batches)]
    scale = scale_between(pair, ends, one="clean", dtype=runs[0].logits.dtype)
    means = NormalisedMeans(pair.measures, one="clean")
    for number, pairs in enumerate(batches):
        stage = part(progress, number / len(batches), (number + 1) / len(batches))
        runs = runs if number == 0 else _runs(model, pairs, site)
        values = _swept(model, pair, pairs, runs, ends[number].corrupted, sites, axis, len(names), size, stage)
        means.add(values, ends[number])
    title = f"Patching {site} from the clean prompt"
    return grids(scale, means, range(len(sites)), names, by, title)


def _runs(model: OlmoForCausalLM, pairs: Pairs, site: str) -> tuple[Run, Run]:
    """The run over the clean prompts, which gives the activations, and the run over the corrupted ones, which is
    patched.
    """
    return (
        model.run(pairs.clean, capture=f"blocks.*.{site}", logits_to_keep=1),
        model.run(pairs.corrupted, capture=[RESIDUALS, *KEYS_AND_VALUES], logits_to_keep=1),
    )


def _swept(
    model: OlmoForCausalLM,
    pair: Contrast,
    pairs: Pairs,
    runs: tuple[Run, Run],
    unpatched: MeasureValues,
    sites: list[str],
    axis: str,
    columns: int,
    tokens: int,
    progress: Progress | None,
) -> MeasureValues:
    """The measures of the runs with one cell patched: layer column text each."""
    clean_run, base = runs
    log_clean, differ = log_probabilities(clean_run.logits), pairs.first_difference
    by_position = axis in AXES_OF["position"]
    # Before the first position at which the prompts differ, patching changes nothing, so those cells are not computed.
    unchanged = differ if by_position else 0
    found = {name: [unpatched[name].cpu().expand(len(sites), unchanged, -1)] for name in pair.measures}
    together = _together(pairs, axis, columns, len(sites), tokens)
    for some in steps(together, progress, f"patching {sites[0].split('.', 2)[2]}"):
        swaps = [Swap(name, clean_run[name], one_each(model.sites[name], axis, some, columns)) for name in sites]
        logits = swept(model, base, swaps, tokens, start=some.start if by_position else differ)
        cell_logits = logits.unflatten(0, (len(sites) * len(some), -1))  # (layer column) text vocab
        for name, value in measured(pair, pairs, log_clean, cell_logits).items():
            found[name].append(value.cpu().unflatten(0, (len(sites), -1)))
    return {name: torch.cat(values, dim=1) for name, values in found.items()}


def _together(pairs: Pairs, axis: str, columns: int, layers: int, tokens: int) -> list[range]:
    """The columns of a grid in groups that are patched in one batch, of at most `tokens` tokens."""
    by_position = axis in AXES_OF["position"]
    at_most = tokens // (pairs.clean.numel() * layers)
    cells = range(pairs.first_difference, columns) if by_position else range(columns)
    return groups(cells, min(at_most, POSITIONS) if by_position else at_most)


def _batches(model: OlmoForCausalLM, pair: Contrast, site: str) -> tuple[list[Pairs], int]:
    """The pairs in batches, and the number of tokens of patched runs to compute at a time."""
    return batches_in_memory(model, pair, f"patching {site}", *_bytes(model, pair, site))


def _bytes(model: OlmoForCausalLM, pair: Contrast, site: str) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, the stored activations and one cell in every layer; and
    for each token of a block of patched runs.
    """
    length, layers = pair.clean.longest, model.config.num_hidden_layers
    stream = 3 * model.config.hidden_size * model.dtype.itemsize
    kept = run_bytes(model, capture=[RESIDUALS, *KEYS_AND_VALUES, f"blocks.*.{site}"], length=length)
    of_cell = stream + last_logits_bytes(model) / min(pair.clean.lengths)
    return kept + layers * of_cell, run_bytes(model, capture=KEYS_AND_VALUES[:1]) + of_cell


@work_of(activation_patching)
def _work(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    site: str = "resid_pre",
    by: str = "position",
    position: int = -1,
    **__: object,
) -> Work:
    pair, layers = outlined(model, clean, corrupted, position), model.config.num_hidden_layers
    site, axis = site_and_axis(model, site, by)
    batches, size = _batches(model, pair, site)
    tokens = cells = largest = 0
    for pairs in batches:
        texts, length = pairs.clean.shape
        columns = length if axis in AXES_OF["position"] else model.sites.sizes[axis]
        for some in _together(pairs, axis, columns, layers, size):
            start = some.start if axis in AXES_OF["position"] else pairs.first_difference
            cells, tokens = cells + len(some) * texts, tokens + len(some) * texts * (length - start)
            largest = max(largest, layers * len(some) * texts * (length - start))
    kept, of_block = _bytes(model, pair, site)
    whole = pass_flops(model, 2 * pair.clean.tokens, logits=2 * len(pair.clean))
    # A block runs for the cells of its own layer and of all layers below.
    patched = pass_flops(model, tokens, layers * (layers + 1) // 2, logits=layers * cells)
    batch = max(pairs.clean.numel() for pairs in batches)
    return Work(whole + patched, nbytes=kept * batch + of_block * min(size, max(batch, largest)))


def site_and_axis(model: OlmoForCausalLM, site: str, by: str) -> tuple[str, str]:
    """The project's name of a site in a block, and the word for the site's axis that becomes the columns of a grid.

    Errors: WorkbenchError if there is no such site, or the site has no such axis.
    """
    if by not in AXES_OF:
        raise WorkbenchError(f"by={by!r}; choices: {', '.join(AXES_OF)}")
    axes = {
        name: next((word for word in shape.split() if word in AXES_OF[by]), None) for name, shape in IN_BLOCK.items()
    }
    try:
        name = model.sites.in_block(site)
    except UnknownSite as error:
        raise WorkbenchError(str(error)) from error
    axis = axes[name]
    if axis is None:
        choices = ", ".join(name for name in axes if axes[name] is not None)
        raise WorkbenchError(f"no site {site!r} with a {by} axis in a block; choices: {choices}")
    return name, axis


def column_names(model: OlmoForCausalLM, pair: Contrast, axis: str, tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """The column labels of a grid: head numbers, or the tokens of the first clean prompt for positions.

    Errors: WorkbenchError for positions of prompts that differ in length.
    """
    if axis in AXES_OF["head"]:
        return tuple(str(head) for head in range(model.sites.sizes[axis]))
    if min(pair.clean.lengths) < pair.clean.longest:
        raise WorkbenchError(
            f"prompts of {min(pair.clean.lengths)} to {pair.clean.longest} tokens cannot be patched by position; "
            "use by='head', or prompts of equal length"
        )
    return token_labels(pair.clean[0], tokenizer)

"""`record`: run a model over texts and write activations to disk, shard by shard."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from hooks import Capture, OlmoForCausalLM
from hooks.shards import shards_of
from hooks.sites import HEADS, axis_of
from workbench.activations.plan import INDEX, TEXTS, Plan, Site, positions_of, rows_in
from workbench.activations.reading import Activations
from workbench.activations.shards import digest, write_shard
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.checkpoints.loading import readable
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report
from workbench.texts import Batch, Texts, TextsLike
from workbench.versions import versions
from workbench.whole_files import cannot_write

SHARD_BYTES = 2**26
SHARD_TOKENS = 2**18
"""The most tokens that run for one shard: what a stopped recording loses."""
IN_MEMORY = 3
"""A shard, its bytes, and a copy of them while they are put together."""
RECORDING = "recording activations"
LOCK = "lock"
NOT_OF_THE_NUMBERS = (
    "_name_or_path",
    "_attn_implementation",
    "architectures",
    "transformers_version",
    "dtype",
    "use_cache",
)
"""Settings of a config that may differ between two models with the same activations."""
LOOK_AGAIN = 0.2  # seconds between two looks at a folder that another process records into


@torch.no_grad()
def record(
    model: OlmoForCausalLM,
    texts: TextsLike,
    capture: str | Capture | Sequence[str | Capture],
    folder: str | Path,
    *,
    positions: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    checkpoint: str = "",
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Activations:
    """Run a model over texts and write the activations at some sites to a folder, one row for each token.

    If the folder holds a part of the same recording, because an earlier call was stopped, the rest is made; shards that
    are missing, cut off or damaged are made again. If it holds all of it, nothing is computed. Texts run in batches of
    equal length, without padding; each batch stops at the last captured site. Two processes that record the same into
    one folder take turns.

    Args:
        model: the model.
        texts: the texts, in any form that an analysis takes.
        capture: sites, globs or `Capture`s with `heads` or `dtype`. A site must have one activation for each token, so
            not `attn.scores` and `attn.pattern`.
        folder: the folder to write to; it is created if its parent exists.
        positions: the positions to store of each text, negative ones counted from its end: `[-1]` for the last token.
            None stores all.
        dtype: the dtype to store, for captures that name none; None keeps the dtype of the activation, bit for bit.
        checkpoint: the id of the checkpoint, to be read in `index.json` and in messages.
        shard_bytes: the approximate size of one file.
        progress: called after each batch.

    Errors: WorkbenchError if the folder holds another recording (other weights, texts, positions or sites), with both;
    if there is not enough room on the disk, before anything is written, with both numbers; if a file cannot be written,
    with the shards that are complete; those of `texts_for` and `tokens_at_a_time`. Errors of `hooks` for a site.
    """
    folder = Path(folder)
    texts = texts_for(model, texts)
    captures = _captures(model, capture, dtype)
    wanted = _planned(model, texts, captures, positions, checkpoint, shard_bytes)
    if (folder / INDEX).exists():
        plan = _agreed(folder, wanted)
        if _has_texts(folder, plan) and not _missing(folder, plan):
            report(progress, 1.0, RECORDING)
            return Activations.open(folder)
    with _alone(folder, progress):
        plan = _agreed(folder, wanted)
        missing = _missing(folder, plan)
        _clear(folder)
        _check_disk(folder, sum(plan.shards[number] for number in missing) * plan.row_bytes)
        if not _has_texts(folder, plan):
            write_shard(folder / TEXTS, _stored(texts), plan.texts_part_of)
        if not (folder / INDEX).exists():
            plan.write(folder)
        _make(model, texts, captures, plan, folder, missing, wanted.batch_tokens, progress)
    report(progress, 1.0, RECORDING)
    return Activations.open(folder)


def _captures(
    model: OlmoForCausalLM, given: str | Capture | Sequence[str | Capture], dtype: torch.dtype | None
) -> list[Capture]:
    """A capture for each site, on the CPU. Errors: WorkbenchError for one that does not give a row for each token."""
    if shards_of(model) is not None:
        raise WorkbenchError("a model that is split across processes cannot be recorded; load it in one process")
    found: dict[str, Capture] = {}
    for one in [given] if isinstance(given, str | Capture) else given:
        capture = Capture(one) if isinstance(one, str) else one
        if capture.rows is not None or capture.reduce is not None:
            raise WorkbenchError(
                f"the capture of {capture.site} has positions, queries or reduce; give positions= to record"
            )
        for site in model.sites.match(capture.site):
            shape = model.sites[site]
            if not shape.startswith("batch pos "):
                raise WorkbenchError(
                    f"{site} has the shape {shape}; only activations of single tokens (batch pos …) can be recorded"
                )
            found[site] = replace(capture, site=site, dtype=capture.dtype or dtype, device="cpu")
    if not found:
        raise WorkbenchError("nothing to record: capture is empty")
    return [found[site] for site in model.sites if site in found]


def _planned(
    model: OlmoForCausalLM,
    texts: Texts,
    captures: Sequence[Capture],
    positions: Sequence[int] | None,
    checkpoint: str,
    shard_bytes: int,
) -> Plan:
    """The plan of a new recording."""
    if positions is not None:
        positions = tuple(int(position) for position in positions)
        if not positions:
            raise WorkbenchError("nothing to record: positions is empty")
    sites = _stored_sites(model, texts, captures)
    plan = Plan(
        checkpoint=checkpoint,
        weights=weights_digest(model),
        texts=digest(_stored(texts)),
        count=len(texts),
        tokens=texts.tokens,
        labels=texts.labels,
        positions=positions,
        sites=sites,
        rows=0,
        batch_tokens=texts.longest,
        shard_rows=1,
        shard_tokens=SHARD_TOKENS,
        shards=(),
        versions=versions(),
    )
    share = sum(len(positions_of(positions, length)) for length in texts.lengths) / texts.tokens  # of rows in tokens
    size = tokens_at_a_time(
        model,
        RECORDING,
        run_bytes(model, capture=list(sites)) + IN_MEMORY * share * plan.row_bytes,  # a shard holds a batch at least
        texts.longest,
        fixed=IN_MEMORY * shard_bytes,
    )
    plan = replace(plan, batch_tokens=size, shard_rows=max(1, shard_bytes // plan.row_bytes))
    shards = tuple(sum(rows_in(batch, positions) for batch in shard) for shard in plan.batches(texts))
    return replace(plan, shards=shards, rows=sum(shards))


def _stored_sites(model: OlmoForCausalLM, texts: Texts, captures: Sequence[Capture]) -> dict[str, Site]:
    """What is stored of each site, found out by a run of one token."""
    run = model.run(texts.ids[:1, :1], capture=captures, captures_only=True)
    found = {}
    for capture in captures:
        tensor, shape = run[capture.site], model.sites[capture.site]
        dtype = str(tensor.dtype).removeprefix("torch.")
        found[capture.site] = Site(shape, tuple(tensor.shape[2:]), dtype, _captured_heads(model, capture))
    return found


def _captured_heads(model: OlmoForCausalLM, capture: Capture) -> tuple[int, ...] | None:
    """The numbers of the captured heads; None for all."""
    shape = model.sites[capture.site]
    axis = axis_of(shape, *HEADS)
    if capture.heads is None or axis is None:
        return None
    word = shape.split()[axis]
    size = model.sites.sizes[word]
    if isinstance(capture.heads, slice):
        return tuple(range(size)[capture.heads])
    return tuple(capture.heads.within(size, word, f"the {size} {word}s of {capture.site}")[0])


def _agreed(folder: Path, wanted: Plan) -> Plan:
    """The plan of the folder if it has one, else the wanted plan. Errors: WorkbenchError if it holds something else."""
    if not (folder / INDEX).exists():
        return wanted
    there = Plan.read(folder)
    if said := there.differences(wanted):
        raise WorkbenchError(f"{folder} holds a recording of {'; '.join(said)}; give another folder")
    return there


def _missing(folder: Path, plan: Plan) -> list[int]:
    """The numbers of the shards that are missing or damaged."""
    return [number for number in range(len(plan.shards)) if plan.open_shard(folder, number, check_digest=True) is None]


def _has_texts(folder: Path, plan: Plan) -> bool:
    return plan.open_texts(folder, check_digest=True) is not None


@contextmanager
def _alone(folder: Path, progress: Progress | None) -> Iterator[None]:
    """A block in which no other process or thread records into the folder, which is created. Waits for its turn.

    The operating system ends the lock of a process that was killed. Errors: WorkbenchError if the folder cannot be
    written.
    """
    try:
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / LOCK)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=LOOK_AGAIN)
            except Timeout:
                report(progress, 0.0, f"waiting for another process that records into {folder}")
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _clear(folder: Path) -> None:
    """Remove the unfinished files of a process that was killed."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WorkbenchError(f"{folder} needs {readable(needed)} more on the disk, and {readable(free)} are free")


def _stored(texts: Texts) -> dict[str, Tensor]:
    """The tensors of the file of the texts."""
    return {"ids": texts.ids[texts.mask].cpu().int(), "lengths": torch.tensor(texts.lengths, dtype=torch.int32)}


def _make(
    model: OlmoForCausalLM,
    texts: Texts,
    captures: Sequence[Capture],
    plan: Plan,
    folder: Path,
    missing: Sequence[int],
    most: int,
    progress: Progress | None,
) -> None:
    """Compute and write the missing shards, with at most `most` tokens at a time, or one text."""
    shards = plan.batches(texts)
    steps = sum(len(shards[number]) for number in missing)
    done = 0
    for number in missing:
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in plan.shapes(number).items()}
        start = 0
        for batch in shards[number]:
            report(progress, done / steps, RECORDING)
            for piece in _pieces(batch, most):
                start += _put(model, piece, captures, plan, tensors, start)
            done += 1
        try:
            write_shard(plan.shard_path(folder, number), tensors, plan.part_of(number))
        except WorkbenchError as error:
            whole = len(shards) - len(missing) + missing.index(number)
            raise WorkbenchError(
                f"{error}; {whole} of {len(shards)} shards are complete and kept; the same call continues from there"
            ) from error


def _pieces(batch: Batch, most: int) -> Iterator[Batch]:
    """A batch in pieces of at most `most` tokens: one piece, unless the recording was begun with more free memory."""
    size = max(1, most // batch.ids.shape[1])
    for start in range(0, len(batch.rows), size):
        yield Batch(batch.rows[start : start + size], batch.ids[start : start + size])


def _put(
    model: OlmoForCausalLM,
    batch: Batch,
    captures: Sequence[Capture],
    plan: Plan,
    tensors: dict[str, Tensor],
    start: int,
) -> int:
    """Run one batch and put its rows into the tensors of a shard, from row `start` on; returns their number."""
    positions = positions_of(plan.positions, batch.ids.shape[1])
    rows = slice(start, start + len(batch.rows) * len(positions))
    kept = None if plan.positions is None else positions
    run = model.run(batch.ids, capture=[replace(one, positions=kept) for one in captures], captures_only=True)
    for site, tensor in run.items():
        tensors[site][rows] = tensor.flatten(0, 1)  # (batch pos) …
    tensors["text"][rows] = torch.tensor(batch.rows, dtype=torch.int32).repeat_interleave(len(positions))
    tensors["position"][rows] = torch.tensor(positions, dtype=torch.int32).repeat(len(batch.rows))
    return rows.stop - rows.start


def weights_digest(model: OlmoForCausalLM, dtype: torch.dtype | None = None) -> str:
    """A digest of the config and all weights of a model, in their dtype or another; the same on every device."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_OF_THE_NUMBERS}
    weights = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in model.state_dict().items()}
    return sha256(json.dumps(config, sort_keys=True, default=str).encode() + digest(weights).encode()).hexdigest()

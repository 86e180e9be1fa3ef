"""Functions that several commands use: arguments, loading of checkpoints, reading of texts, progress, provenance."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench import checkpoints, interventions
from workbench.analyses.support.cost import SPEED, duration, planned
from workbench.analyses.support.sample_text import SAMPLE_TEXT
from workbench.analyses.trajectory import Loading
from workbench.choices import BITS, DTYPES
from workbench.embedded_texts import SETS
from workbench.errors import WorkbenchError
from workbench.progress import Progress, tqdm_progress
from workbench.report import dtype_name
from workbench.streams import standard_input, tell
from workbench.text_pairs import TextPairs
from workbench.texts import Texts
from workbench.versions import versions

LAST_SEED = 2**63 - 1
STATED = 10.0  # seconds from which the price of an analysis is stated


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory, with its tokenizer."""

    id: str
    model: OlmoForCausalLM
    tokenizer: PreTrainedTokenizerBase

    def tokens(self, text: str) -> Tensor:
        """A text as token ids, 1 pos. Errors: WorkbenchError if it is empty or longer than the model's context."""
        return self.fitting(ids_of(self.tokenizer, text)[None])

    def fitting(self, ids: Tensor) -> Tensor:
        """The token ids of a text, 1 pos, on the model's device. Errors: those of `tokens`."""
        longest = self.model.config.max_position_embeddings
        if not 0 < ids.shape[1] <= longest:
            raise WorkbenchError(f"the text has {ids.shape[1]} tokens; {self.id} takes 1 to {longest}")
        return ids.to(self.model.device)

    def provenance(self, args: argparse.Namespace) -> dict[str, Any]:
        """The provenance of numbers from this checkpoint."""
        lines = "\n".join(getattr(args, "edit", []))
        changes = interventions.read(lines, self.tokenizer, interventions.set_or_file)
        edits = {"edits": "; ".join(map(str, changes))} if changes else {}
        return provenance(args, {"checkpoint": self.id, "dtype": dtype_name(self.model.dtype)} | edits)


def add_prompt(parser: argparse.ArgumentParser, *, or_texts: bool = False) -> None:
    """Add TEXT and --checkpoint; with `or_texts` also --texts, which can be given in place of TEXT."""
    optional = "?" if or_texts else None
    parser.add_argument("prompt", nargs=optional, metavar="TEXT", help="the text; - reads it from standard input")
    add_checkpoint(parser)
    if or_texts:
        add_texts(parser)


def reads_a_set(args: argparse.Namespace, **only_for_a_text: object) -> bool:
    """Whether the command reads a set (--texts) and not a single text (TEXT).

    Args:
        args: the parsed arguments.
        only_for_a_text: the values of options that are for a single text, by name; None or False if not given.

    Errors: WorkbenchError if TEXT and --texts are both given or both missing, or if an option for a single text is
    given with --texts.
    """
    if args.texts is not None and args.prompt is not None:
        raise WorkbenchError(f"TEXT and --texts {args.texts} both name what to read; give one of them")
    if args.texts is None and args.prompt is None:
        raise WorkbenchError("there is nothing to read; give a TEXT, or --texts with a file or a built-in set")
    given = [f"--{name}" for name, value in only_for_a_text.items() if value]
    if args.texts is not None and given:
        raise WorkbenchError(f"{given[0]} is for one text, and --texts {args.texts} is a set; leave one of them out")
    return args.texts is not None


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint, the model that reads the texts."""
    parser.add_argument(
        "--checkpoint",
        default="tiny-olmo",
        metavar="ID",
        help="name@revision of the embedded series, a folder or a hub repository (default: tiny-olmo)",
    )


def add_texts(parser: argparse.ArgumentParser, default: str | None = None, *, is_required: bool = False) -> None:
    """Add --texts, a set of texts, and the arguments that say how it is read; see `texts_of`.

    Args:
        parser: the parser of the command.
        default: the built-in set that is read without --texts; None for none.
        is_required: whether --texts must be given.
    """
    group = parser.add_argument_group("set of texts")
    group.add_argument(
        "--texts",
        metavar="FILE",
        default=default,
        required=is_required,
        help="file of texts: csv, jsonl, parquet or txt (one text a line); or a built-in set: "
        + ", ".join(name for name, found in SETS.items() if not found.pairs)
        + (f" (default: {default})" if default else ""),
    )
    group.add_argument("--text-column", default="text", metavar="COLUMN", help="column of the texts (default: text)")
    group.add_argument(
        "--label", metavar="COLUMN", help="column of the labels (default: none; a built-in set has its own)"
    )
    group.add_argument("--cut", type=positive, metavar="N", help="read only the first N tokens of each text")


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """Add --texts, a set of matched pairs of prompts; see `pairs_of`."""
    built_in = [name for name, found in SETS.items() if found.pairs]
    parser.add_argument(
        "--texts",
        metavar="FILE",
        default=built_in[0],
        help="file of pairs: csv, jsonl or parquet with the columns clean, corrupted, answer and optionally other; or "
        f"a built-in set: {', '.join(built_in)} (default: {built_in[0]})",
    )


def pairs_of(args: argparse.Namespace, subject: LoadedCheckpoint) -> TextPairs:
    """The pairs that --texts names. Errors: those of `TextPairs.read`."""
    longest = subject.model.config.max_position_embeddings
    return TextPairs.read(args.texts, subject.tokenizer, longest=longest)


def add_edits(parser: argparse.ArgumentParser) -> None:
    """Add --edit, which changes the model."""
    parser.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar="EDIT",
        help="change the model: 'L2H5 off', 'MLP 3 × 0.5', '+8 ▁lemon at layer 2', 'token 7 at layer 2 off', "
        "'L2H5 from \"another prompt\"', '+2 label tiny-olmo/number/plural at layer 2'; may be repeated, in order",
    )


@contextmanager
def edited(args: argparse.Namespace, subject: LoadedCheckpoint, tokens: Tensor) -> Iterator[None]:
    """Apply the edits of --edit to every run of the model within the `with` block.

    Args:
        args: the parsed arguments.
        subject: the checkpoint whose model is changed.
        tokens: the text that the model reads, 1 pos; positions of edits must be in it.

    Errors: WorkbenchError that quotes the edit, if it cannot be parsed or does not fit the model or the text.
    """
    changes = interventions.read("\n".join(args.edit), subject.tokenizer, interventions.set_or_file)
    interventions.check_text(changes, tokens.shape[1])
    with subject.model.tapped(edits=interventions.edits_of(subject.model, changes)):
        yield


@contextmanager
def edited_for(args: argparse.Namespace, subject: LoadedCheckpoint, texts: Texts) -> Iterator[None]:
    """Apply the edits of --edit, as `edited` does; their positions must be in every text of the set."""
    with edited(args, subject, texts.ids[:, : min(texts.lengths)]):
        yield


def add_text(parser: argparse.ArgumentParser) -> None:
    """Add --text, a file with the text on which a measure is computed."""
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="file with the text to measure on (default: a built-in text); - reads standard input",
    )


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dtype, --device and --quantize, which set how checkpoints are loaded."""
    parser.add_argument(
        "--dtype", choices=DTYPES, help="dtype of the weights (default: float32 on a CPU, else auto, the files' dtype)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    parser.add_argument("--quantize", choices=list(BITS), help="quantise linear layers with bitsandbytes")


def add_seed(parser: argparse.ArgumentParser, use: str) -> None:
    """Add --seed, which makes random results reproducible; `use` is its help."""
    parser.add_argument("--seed", type=whole, default=0, help=f"{use} (default: 0)")


def whole(text: str) -> int:
    """Parse a whole number. Only the first 30 characters are read: a longer number is too large for every option."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text[:30])


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1; it should be a whole number from 1")
    return number


def checked_seed(args: argparse.Namespace) -> int:
    """The value of --seed. Errors: WorkbenchError if it is negative or above `LAST_SEED`."""
    if not 0 <= args.seed <= LAST_SEED:
        raise WorkbenchError(f"seed is {args.seed}; it should be a whole number from 0 to {LAST_SEED:,}")
    return args.seed


def bar(args: argparse.Namespace) -> Progress | None:
    """A new progress bar; None without --progress."""
    return tqdm_progress() if args.progress else None


def state_price(analysis: Callable[..., object], *arguments: object, **options: object) -> None:
    """Say on stderr how long a call of an analysis takes, if that is more than `STATED` seconds.

    It is the stated work by `SPEED`: nothing was measured on this machine.
    """
    seconds = planned(analysis, *arguments, **options).flops / SPEED
    if seconds > STATED:
        name = analysis.__name__.replace("_", " ")
        tell(f"{name}: about {duration(seconds)} at {SPEED / 1e9:.0f} billion operations a second; Ctrl-C ends it\n")


def loading(args: argparse.Namespace) -> Loading:
    """The values of --dtype, --device and --quantize as a `Loading`."""
    return Loading(args.dtype, args.device, args.quantize)


def load_as_given(
    args: argparse.Namespace, checkpoint: str, check_finite: bool = True
) -> tuple[OlmoForCausalLM, PreTrainedTokenizerBase | None]:
    """A checkpoint's model and tokenizer, loaded with --dtype, --device and --quantize. Errors: those of
    `checkpoints.load`."""
    how = {"dtype": args.dtype, "device": args.device, "quantize": args.quantize, "check_finite": check_finite}
    return checkpoints.load(checkpoint, **how, progress=bar(args))


def opened_checkpoint(args: argparse.Namespace, checkpoint: str) -> LoadedCheckpoint:
    """A checkpoint, loaded with its tokenizer. Errors: WorkbenchError if it is not found or has no tokenizer."""
    model, tokenizer = load_as_given(args, checkpoint)
    return LoadedCheckpoint(full_id(checkpoint), model, required_tokenizer(tokenizer, checkpoint))


def required_tokenizer(tokenizer: PreTrainedTokenizerBase | None, checkpoint: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, unchanged. Errors: WorkbenchError if it is None."""
    if tokenizer is None:
        raise WorkbenchError(f"{checkpoint} has no tokenizer.json, which is needed to read a text")
    return tokenizer


def full_id(checkpoint: str) -> str:
    """The id of a checkpoint as `name@revision`. If no revision is given, it is the name of the checkpoint's folder. A
    path is returned unchanged."""
    folder = checkpoints.locate(checkpoint)
    return checkpoint if "@" in checkpoint or Path(checkpoint) == folder else f"{checkpoint}@{folder.name}"


def text_or_sample(source: str | None) -> str:
    """The text of a file; of standard input for `-`; the built-in sample for None.

    Errors: WorkbenchError if the file or standard input cannot be read or is not UTF-8.
    """
    if source is None:
        return SAMPLE_TEXT
    if source == "-":
        return standard_input()
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WorkbenchError(f"{source} is not UTF-8 text") from error
    except OSError as error:
        raise WorkbenchError(f"the file {source} cannot be read: {error.strerror}") from error


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """The token ids of a text of any length: pos."""
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)


def texts_of(args: argparse.Namespace, subject: LoadedCheckpoint) -> Texts:
    """The set of texts that --texts names, as the tokens of a checkpoint.

    Errors: those of `Texts.read`, and WorkbenchError for a text that is longer than the model takes.
    """
    longest = subject.model.config.max_position_embeddings
    return Texts.read(args.texts, subject.tokenizer, args.text_column, args.label, longest=longest, cut=args.cut)


def texts_in_pieces(args: argparse.Namespace, subject: LoadedCheckpoint) -> Iterator[Texts]:
    """The texts that the arguments name, in parts, one after the other, for a set that may not fit into memory.

    Errors: those of `Texts.stream`.
    """
    longest = subject.model.config.max_position_embeddings
    return Texts.stream(args.texts, subject.tokenizer, args.text_column, args.label, longest=longest, cut=args.cut)


def prompt_of(args: argparse.Namespace) -> str:
    """The text given as TEXT; that of standard input if TEXT is `-`."""
    return standard_input() if args.prompt == "-" else args.prompt


def provenance(args: argparse.Namespace, first: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of numbers: `first`, then how checkpoints were loaded, the seed, threads and versions."""
    options = {"device": args.device, "quantize": args.quantize, "seed": getattr(args, "seed", None)}
    named = {name: value for name, value in options.items() if value is not None}
    return dict(first) | named | {"threads": torch.get_num_threads()} | versions()


def rows_of(ids: Tensor, length: int) -> Tensor:
    """A text cut into rows of `length` tokens, or into one row if it is shorter: pos -> batch pos.

    The tokens after the last full row are left out. Errors: WorkbenchError for a length or a text of fewer than 2
    tokens.
    """
    length = min(length, len(ids))
    if length < 2:
        raise WorkbenchError(
            f"rows of {length} tokens cannot be measured; give a longer text, or --length of at least 2"
        )
    return ids[: len(ids) // length * length].reshape(-1, length)

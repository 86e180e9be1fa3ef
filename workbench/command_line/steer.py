"""How answers change when the direction between two labels is added (steering)."""

import argparse
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from workbench.analyses.directions import label_direction
from workbench.analyses.steering import STRENGTHS, steering
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.labels import halves
from workbench.command_line.common import (
    LoadedCheckpoint,
    add_checkpoint,
    add_loading_arguments,
    add_seed,
    add_text,
    add_texts,
    bar,
    checked_seed,
    ids_of,
    opened_checkpoint,
    positive,
    rows_of,
    text_or_sample,
    texts_of,
)
from workbench.command_line.probe import SET, add_position, layer_name
from workbench.errors import WorkbenchError
from workbench.generation import steered_texts
from workbench.report import Report, Section
from workbench.results import Curves, Measures
from workbench.texts import Texts

EXAMPLES = """
  python -m workbench steer --toward plural --layer 2 --answers " were" " are" --instead " was" " is"
  python -m workbench steer --toward plural --layer 2 --answers " were" --instead " was" --write "The dog also"
  python -m workbench steer --texts tiny-olmo/language --toward Python --layer 1 --answers " =" --html steer.html
"""
NOTE = (
    "log odds: log p(answers) − log p(instead), in nats, mean over prompts; answers: the probability of both sets; "
    "loss: mean −log p of the tokens of an unrelated text, which rises if steering harms the model. The direction "
    "is the mean state of one label minus that of the other; random directions have the same norm."
)
ROW = 128  # tokens in each row of the unrelated text
WRITTEN = 5  # strengths at which texts are written: lowest, highest, 0, and those half-way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: labelled texts, a layer, and two sets of answers."""
    add_texts(parser, SET)
    add_checkpoint(parser)
    parser.add_argument("--toward", required=True, metavar="LABEL", help="label toward which the direction leads")
    parser.add_argument("--against", metavar="LABEL", help="label from which it leads (default: all others)")
    parser.add_argument(
        "--layer", type=layer_name, required=True, metavar="L", help="layer after which it is added: a number, or embed"
    )
    add_position(parser)
    parser.add_argument(
        "--answers",
        nargs="+",
        required=True,
        metavar="TEXT",
        help="answers that fit the label, with their leading spaces",
    )
    parser.add_argument(
        "--instead", nargs="+", metavar="TEXT", help="answers that fit the other label (default: everything else)"
    )
    parser.add_argument(
        "--strengths", nargs="+", type=float, default=list(STRENGTHS), metavar="S", help="multiples of the direction"
    )
    parser.add_argument("--controls", type=positive, default=5, help="number of random directions (default: 5)")
    parser.add_argument(
        "--write",
        action="append",
        default=[],
        metavar="TEXT",
        help="prompt to continue, with and without steering; may be repeated",
    )
    parser.add_argument("--tokens", type=positive, default=24, help="new tokens for each --write (default: 24)")
    add_text(parser)
    add_seed(parser, "seed of the random directions")
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A row for each strength, and the generated texts. Every second text of each label makes the direction, and the
    others are the prompts.
    """
    seed, subject = checked_seed(args), opened_checkpoint(args, args.checkpoint)
    made_of, prompts = halves(texts_of(args, subject), args.toward, args.against)
    direction = label_direction(
        subject.model, made_of, args.toward, args.against, layer=args.layer, position=args.position
    )
    answers, instead = (
        None if texts is None else _answer_ids(subject, texts) for texts in (args.answers, args.instead)
    )
    assert answers is not None
    found = steering(
        subject.model,
        prompts,
        direction,
        answers,
        instead,
        strengths=args.strengths,
        unrelated=Texts(rows_of(ids_of(subject.tokenizer, text_or_sample(args.text)), ROW)),
        controls=args.controls,
        seed=seed,
        progress=bar(args),
    )
    sections = [
        Section(
            "By strength", found.table(), list(found.values()), NOTE, shown=_by_strength(found), results=dict(found)
        )
    ]
    sections += [_written_section(args, subject, direction, seed)] if args.write else []
    origin = subject.provenance(args) | {
        "texts": args.texts,
        "direction": direction.made,
        "site": direction.site,
        "norm": direction.norm,
        "prompts": len(prompts),
    }
    return Report(f"Steering of {subject.id} toward {args.toward}", sections, origin)


def _written_section(args: argparse.Namespace, subject: LoadedCheckpoint, direction: Direction, seed: int) -> Section:
    """The texts that the model writes after each --write, with the direction and with a random one."""
    grid = steered_texts(
        subject.model,
        Texts.of(subject.tokenizer, args.write),
        direction,
        _strengths_to_write(args.strengths),
        max_new_tokens=args.tokens,
        controls=1,
        seed=seed,
        tokenizer=subject.tokenizer,
        progress=bar(args),
    )
    note = (
        "surprisal: mean −log p of the written tokens to the model without steering, in nats; (random 1): the same "
        "prompt with a random direction of the same norm."
    )
    shown = grid.table()[["prompt", "strength", "value", "text"]].rename(columns={"value": "surprisal"})
    return Section("Written texts", grid.table(), [grid], note, shown=shown, results={"written": grid})


def _answer_ids(subject: LoadedCheckpoint, answers: Sequence[str]) -> list[Tensor]:
    """The token ids of answers: pos each. Errors: WorkbenchError for an empty answer."""
    if not all(answers):
        raise WorkbenchError("an answer is empty; an answer needs at least one token")
    return [torch.tensor(subject.tokenizer.encode(answer, add_special_tokens=False)) for answer in answers]


def _strengths_to_write(strengths: Sequence[float]) -> list[float]:
    """The strengths at which texts are written, in order: at most `WRITTEN`, evenly spaced by rank, and 0."""
    ordered = sorted({*strengths, 0.0})
    places = torch.linspace(0, len(ordered) - 1, min(WRITTEN, len(ordered))).round().int().tolist()
    return sorted({*(ordered[place] for place in places), 0.0})


def _by_strength(found: Measures[Curves]) -> pd.DataFrame:
    """A row for each strength: each measure of the direction, and the range of its log-odds for random directions."""
    odds = found["log_odds"]
    assert odds.errors is not None, "log-odds are means over texts"
    table = pd.DataFrame({"strength": odds.x, "log odds": odds.values[0], "error": odds.errors[0]})
    table["random, lowest"], table["random, highest"] = odds.values[2], odds.values[3]
    for name in list(found)[1:]:
        table[name] = found[name].values[0]
    return table

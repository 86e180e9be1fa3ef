"""Continue a text, or answer in a conversation, and show how probable each token was."""

import argparse

import pandas as pd

from workbench.command_line.common import (
    add_edits,
    add_loading_arguments,
    add_prompt,
    add_seed,
    bar,
    edited,
    opened_checkpoint,
    positive,
)
from workbench.command_line.given_text import add_chat, end_ids, given_text
from workbench.generation import Written, generate
from workbench.report import Report, Section

EXAMPLES = """
  python -m workbench generate "The old man went"
  python -m workbench generate "def area(" --checkpoint tiny-olmo@step1000 --temperature 0 --tokens 20
  python -m workbench generate "Old Marta lives in Lisbon and Old Marta lives in" --temperature 0 --edit "L2H5 off"
  python -m workbench generate - --csv tokens.csv < prompt.txt
  python -m workbench generate "What is a cat?" --chat --checkpoint allenai/OLMo-2-0425-1B-Instruct
  python -m workbench generate - --chat --system "Answer briefly." --checkpoint ./instruct < turns.txt
"""
NOTE = "Probability is the model's own, before temperature, top-k and top-p; surprisal = −log probability, in nats."
LIKELIEST = 5  # alternatives that are listed for each new token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a text, and how tokens are sampled."""
    add_prompt(parser)
    add_chat(parser)
    parser.add_argument("--tokens", type=positive, default=40, help="largest number of new tokens (default: 40)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        help="sampling temperature; 0 takes the likeliest token (default: 0.7)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="sample from the fewest tokens with this total probability (default: 1)",
    )
    parser.add_argument(
        "--top-k", type=int, default=0, help="sample from the k likeliest tokens; 0: from all (default: 0)"
    )
    add_seed(parser, "seed of the sampling")
    add_edits(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """The text with its continuation, and a row for each new token. Files also have rows for the tokens of the text."""
    subject = opened_checkpoint(args, args.checkpoint)
    given = given_text(args, subject)
    with edited(args, subject, given.tokens):
        written = generate(
            subject.model,
            given.tokens,
            max_new_tokens=args.tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            seed=args.seed,
            stop_at=end_ids(given, subject),
            tokenizer=subject.tokenizer,
            progress=bar(args),
        )
    new = subject.tokenizer.decode(list(written.ids[written.given :]), skip_special_tokens=True)
    section = Section(
        "New tokens",
        given.with_turns(written.table()),
        [written.curve()],
        NOTE,
        shown=_new_tokens(written),
        results={"text": written},
    )
    return Report(
        f"{subject.id} {'continues a text' if given.conversation is None else 'answers in a conversation'}",
        [section],
        subject.provenance(args) | {"temperature": args.temperature, "top-p": args.top_p, "top-k": args.top_k},
        text=given.continued(new),
    )


def _new_tokens(written: Written) -> pd.DataFrame:
    """A row for each new token, with the likeliest alternatives."""
    new = slice(written.given, None)
    return pd.DataFrame(
        {
            "token": written.tokens[new],
            "probability": written.probability[new],
            "surprisal": written.values[new],
            "likeliest": [" ".join(text for text, *_ in likely[:LIKELIEST]) for likely in written.alternatives[new]],
        }
    )

"""Continue a text, and see how sure the model was of each token."""

import argparse
import math

import pandas as pd

from workbench.command_line.common import add_loading_arguments, add_prompt, bar, opened, prompt_of
from workbench.generation import Step, stream
from workbench.report import Report, Section
from workbench.results import Curves
from workbench.text import token_labels, vocabulary_labels

EXAMPLES = """
  python -m workbench generate "The old man went"
  python -m workbench generate "def area(" --checkpoint tiny-olmo@step1000 --temperature 0 --tokens 20
  python -m workbench generate - --csv tokens.csv < prompt.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument("--tokens", type=int, default=40, help="at most this many new ones (40)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest token (0.7)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the fewest tokens that hold this share (1)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens; 0 from all (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """The text that was given and its continuation; a row and a point for each new token."""
    subject, prompt = opened(args, args.checkpoint), prompt_of(args)
    end, tokenizer, progress = subject.model.config.eos_token_id, subject.tokenizer, bar(args)
    steps: list[Step] = []
    for step in stream(
        subject.model,
        subject.tokens(prompt),
        max_new_tokens=args.tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        stop_at=[] if end is None else [end] if isinstance(end, int) else end,
    ):
        steps.append(step)
        if progress is not None:
            progress(len(steps) / args.tokens, "generating")
    labels = token_labels([step.id for step in steps], tokenizer)
    surprisal = Curves(
        [[step.surprisal for step in steps]],
        ["text"],
        range(len(steps)),
        x_name="new token",
        x_labels=labels,
        title="How surprising each new token was",
        value_name="surprisal",
        unit="nats",
    )
    table = pd.DataFrame(
        {
            "token": labels,
            "probability": [math.exp(step.log_probability) for step in steps],
            "surprisal": [step.surprisal for step in steps],
            "likeliest": [" ".join(vocabulary_labels([i for i, _ in s.alternatives[:5]], tokenizer)) for s in steps],
        }
    )
    note = "Probability is the model's own, before temperature, top-k and top-p; surprisal = −log probability, in nats."
    return Report(
        f"{subject.id} continues a text",
        [Section("New tokens", table, [surprisal], note)],
        subject.provenance(args) | {"temperature": args.temperature, "top-p": args.top_p, "top-k": args.top_k},
        text=prompt + tokenizer.decode([step.id for step in steps], skip_special_tokens=True),
    )

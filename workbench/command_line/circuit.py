"""Which edges between the parts of a model carry an answer, and what they keep alone (a circuit with its proof)."""

import argparse

from workbench.analyses.circuit import circuit
from workbench.analyses.faithfulness import faithfulness
from workbench.analyses.support.edge_pairs import REPLACEMENTS
from workbench.command_line.common import (
    add_checkpoint,
    add_loading_arguments,
    add_pairs,
    add_seed,
    bar,
    checked_seed,
    opened_checkpoint,
    pairs_of,
    whole,
)
from workbench.progress import part
from workbench.report import Report, Section

EXAMPLES = """
  python -m workbench circuit
  python -m workbench circuit --texts tiny-olmo/repeat-pairs --html circuit.html
  python -m workbench circuit --texts pairs.csv --replacement mean --csv edges.csv --save circuit.npz
  python -m workbench circuit --neurons 20
"""
SHOWN = 20  # edges that are listed
EDGES = (
    "How much the answer to the clean prompts falls if one edge alone carries its replacement: an estimate from "
    "gradients (value, and its share of the whole effect), and for the strongest edges the exact number. Means over "
    "the pairs; the standard error is over pairs."
)
PROOF = (
    "The share of the effect that remains with only the best edges, without them, with random edges (mean over draws "
    "and their deviation), with edges chosen by magnitude, and with whole nodes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: pairs of prompts, and how edges are scored."""
    add_pairs(parser)
    parser.add_argument(
        "--replacement",
        choices=REPLACEMENTS,
        default=REPLACEMENTS[0],
        help=f"what an absent edge carries (default: {REPLACEMENTS[0]}, the activation in the corrupted prompt)",
    )
    parser.add_argument(
        "--steps", type=whole, default=5, metavar="N", help="points of the integral; 0: the clean run (default: 5)"
    )
    parser.add_argument(
        "--exact", type=whole, default=20, metavar="N", help="edges that are also patched exactly (default: 20)"
    )
    parser.add_argument(
        "--neurons", type=whole, default=0, metavar="N", help="neurons that are nodes of their own (default: 0)"
    )
    parser.add_argument("--draws", type=whole, default=5, metavar="N", help="random circuits of each size (default: 5)")
    add_checkpoint(parser)
    add_loading_arguments(parser)
    add_seed(parser, "seed of the random circuits")


def run(args: argparse.Namespace) -> Report:
    """A table with a row for each edge, and one with a row for each number of edges."""
    seed, subject, progress = checked_seed(args), opened_checkpoint(args, args.checkpoint), bar(args)
    pairs = pairs_of(args, subject)
    prompts = (pairs.clean, pairs.corrupted, pairs.answers, pairs.others)
    found = circuit(
        subject.model,
        *prompts,
        steps=args.steps,
        replacement=args.replacement,
        exact=args.exact,
        neurons=args.neurons,
        tokenizer=subject.tokenizer,
        progress=part(progress, 0.0, 0.3),
    )
    proof = faithfulness(
        subject.model,
        found,
        *prompts,
        draws=args.draws,
        seed=seed,
        tokenizer=subject.tokenizer,
        progress=part(progress, 0.3, 1.0),
    )
    edges = found.table()
    order = edges["value"].abs().sort_values(ascending=False, kind="stable").index
    edges = edges.loc[order].reset_index(drop=True)
    shares = proof.table().pivot(index="edges", columns="line", values="value")[list(proof.lines)].reset_index()
    shares.insert(shares.columns.get_loc("random edges") + 1, "deviation", proof.deviation)
    sections = [
        Section("Edges", edges, [found], EDGES, shown=edges.head(SHOWN), results={"circuit": found}),
        Section("What circuits keep of the effect", shares, [proof], PROOF, results={"faithfulness": proof}),
    ]
    origin = subject.provenance(args) | {
        "texts": args.texts,
        "number of pairs": len(pairs),
        "replacement": args.replacement,
        f"effect ({found.value_name})": found.effect,
        "correlation with exact patching": found.correlation,
        "change of the scores with the norms' divisors held": found.scale_error,
    }
    return Report(f"The circuit of {subject.id} on {args.texts}", sections, origin, text=f"{proof.said()}.")

"""Which transcoder features lead from a prompt to its prediction (attribution graph)."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from workbench import features
from workbench.command_line.common import (
    add_checkpoint,
    add_loading_arguments,
    bar,
    opened_checkpoint,
    positive,
    whole,
)
from workbench.command_line.given_text import add_chat, given_text
from workbench.errors import WorkbenchError
from workbench.features.circuit_tracer import GRAPH_INDEX, check_graph_file
from workbench.features.graph import AttributionGraph
from workbench.features.graph_labels import feature_labels
from workbench.features.replaced_mlps import Transcoders
from workbench.report import Report, Section

EXAMPLES = """
  python -m workbench graph "The cat sat on the"
  python -m workbench graph "The cats near the tree" --token " were" --against " was" --csv nodes.csv --save graph.npz
  python -m workbench graph "The cat sat on the" --json cat.json
  python -m workbench graph "The cat sat on the" --checkpoint owner/model --dictionary sae/layers.0 sae/layers.1
  python -m workbench graph "The cat sat on the" --checkpoint owner/model --cross-layer owner/transcoder
"""
SHOWN = 20  # nodes and edges that are listed
NODES = (
    "Features and errors of the pruned graph. effect: how much the first logit falls without the node, along all "
    "paths, with attention, norms and errors frozen; measured: how much it falls in the model, and held: in the "
    "model with attention and norms frozen, both for the strongest nodes of the whole graph."
)
EDGES = "Direct effects between nodes of the pruned graph, and their share of the sum that enters the target."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a prompt, the tokens to explain, dictionaries, and how the graph is pruned."""
    parser.add_argument("prompt", metavar="TEXT", help="the text; - reads it from standard input")
    add_chat(parser)
    add_checkpoint(parser)
    _add_transcoders(parser)
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="the next token to explain (default: the likeliest tokens, up to a probability of 95 %% together)",
    )
    parser.add_argument("--against", metavar="TOKEN", help="explain the logit of --token minus that of this token")
    parser.add_argument(
        "--most",
        type=positive,
        default=4096,
        metavar="N",
        help="largest number of features in the graph (default: 4096)",
    )
    parser.add_argument(
        "--checks", type=whole, default=20, metavar="N", help="nodes to ablate in the model, as a check (default: 20)"
    )
    _add_pruning(parser)
    add_loading_arguments(parser)


def _add_transcoders(parser: argparse.ArgumentParser) -> None:
    """Add --dictionary and --cross-layer."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dictionary",
        nargs="+",
        default=[],
        metavar="NAME",
        help="transcoders of MLPs: embedded, in folders or of the hub, at most one of each layer (default: the "
        "embedded ones of the checkpoint)",
    )
    which.add_argument(
        "--cross-layer",
        metavar="NAME",
        help="a cross-layer transcoder in circuit-tracer's format, in a folder or of the hub",
    )


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    """Add --nodes and --edges, how much pruning keeps, and --json, which writes what is kept."""
    for name, share in (("nodes", 0.8), ("edges", 0.98)):
        parser.add_argument(
            f"--{name}",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"share of the influence that the {name} kept by pruning have (default: {share})",
        )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"write the pruned graph for circuit-tracer's viewer, and list it in {GRAPH_INDEX} beside the file",
    )


def run(args: argparse.Namespace) -> Report:
    """A table of the strongest nodes, and one of the strongest edges."""
    if args.json is not None:
        check_graph_file(args.json)
    subject = opened_checkpoint(args, args.checkpoint)
    transcoders = _transcoders(args, subject.id)
    given = given_text(args, subject)
    found = features.attribution_graph(
        subject.model,
        given.tokens,
        transcoders,
        args.token,
        args.against,
        most=args.most,
        checks=args.checks,
        tokenizer=subject.tokenizer,
        progress=bar(args),
    )
    small = found.pruned(args.nodes, args.edges)
    labels = feature_labels(subject.model, small, transcoders, subject.tokenizer)
    if args.json is not None:
        shares = {"nodes": args.nodes, "edges": args.edges}
        features.write_circuit_tracer(found, args.json, **shares, labels=labels, tokenizer=subject.tokenizer)
    origin = subject.provenance(args) | {
        "text": given.text,
        "tokens": given.tokens.shape[1],
        "dictionaries": ", ".join(transcoders),
        "logits": ", ".join(found.logits),
        "nodes": f"{len(small.nodes):,} of {len(found.nodes):,}",
        "replacement score": found.replacement_score,
        "completeness score": found.completeness_score,
        "largest deviation of a sum": found.rounding,
    }
    return Report(
        f"Attribution graph of {subject.id}", _graph_sections(found, small, labels), origin, text=f"{found.said()}."
    )


def _graph_sections(found: AttributionGraph, small: AttributionGraph, labels: Mapping[str, str]) -> list[Section]:
    """A table of the strongest nodes, and one of the strongest edges, of a graph that is pruned to `small`."""
    nodes = small.table().iloc[small.strongest_inner()].reset_index(drop=True)
    nodes.insert(1, "meaning", [labels.get(name, "") for name in nodes["name"]])
    edges = small.edges().drop(columns=["source", "target"])
    columns = ["name", "meaning", "value", "influence", "effect", "measured", "held", "verdict"]
    return [
        Section("Nodes", nodes, [small.strongest()], NODES, shown=nodes[columns].head(SHOWN), results={"graph": found}),
        Section("Edges", edges, [], EDGES, shown=edges.head(SHOWN)),
    ]


def _transcoders(args: argparse.Namespace, checkpoint: str) -> Transcoders:
    """The transcoders that the arguments name; if they name none, those of the checkpoint that come with the workbench.

    Errors: WorkbenchError if the checkpoint has none.
    """
    if args.cross_layer is not None:
        return {args.cross_layer: features.load_cross_layer(args.cross_layer)}
    names = args.dictionary or [
        name for name in features.embedded() if name.startswith(f"{checkpoint}/") and name.endswith(".mlp")
    ]
    if not names:
        raise WorkbenchError(f"there are no embedded transcoders of {checkpoint}; name some with --dictionary")
    return {name: features.load(name) for name in names}

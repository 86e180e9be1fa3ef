"""`write_circuit_tracer`: an attribution graph in the JSON files that circuit-tracer's viewer and Neuronpedia open.

The layout is that of circuit-tracer 0.5 (schema version 1). Their error nodes can have the id of a feature node; here
every id is unique.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError, reason
from workbench.features.graph import ERROR, FEATURE, LOGIT, TOKEN, AttributionGraph
from workbench.features.graph_influence import cumulative
from workbench.tokens import Tokenizer
from workbench.whole_files import output_file

GRAPH_INDEX = "graph-metadata.json"
"""The file that lists the graphs of its folder."""
TYPES = {FEATURE: "cross layer transcoder", ERROR: "mlp reconstruction error", TOKEN: "embedding", LOGIT: LOGIT}


def write_circuit_tracer(
    graph: AttributionGraph,
    path: str | Path,
    *,
    nodes: float = 0.8,
    edges: float = 0.98,
    labels: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write the pruned graph to a JSON file, and add it to `graph-metadata.json` beside it; returns the path.

    `circuit_tracer.frontend.local_server.serve(folder)` then shows it, under the name of the file.

    Args:
        graph: the whole graph.
        path: `folder/name.json`.
        nodes, edges: the shares of `AttributionGraph.pruned`.
        labels: what features mean, by the name of the node (`L2 F417 @5`).
        tokenizer: for the text of the tokens; the labels of the graph without it.

    Errors: WorkbenchError if a file cannot be written, or the index that is there cannot be read.
    """
    path = Path(path)
    check_graph_file(path)
    found = as_circuit_tracer(graph, path.stem, nodes=nodes, edges=edges, labels=labels, tokenizer=tokenizer)
    index = path.with_name(GRAPH_INDEX)
    graphs = [one for one in _graphs(index) if one.get("slug") != path.stem]
    for file, content in ((path, found), (index, {"graphs": [*graphs, found["metadata"]]})):
        with output_file(file) as stream:
            stream.write(json.dumps(content, indent=1, allow_nan=False).encode())
    return path


def check_graph_file(path: Path) -> None:
    """Errors: WorkbenchError for a path that cannot be that of a graph."""
    if path.suffix != ".json" or path.name == GRAPH_INDEX:
        raise WorkbenchError(f"{path} should be the name of a graph, ending in .json, and not {GRAPH_INDEX}")


def as_circuit_tracer(
    graph: AttributionGraph,
    slug: str,
    *,
    nodes: float = 0.8,
    edges: float = 0.98,
    labels: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """The content of the file that `write_circuit_tracer` writes, as a JSON object.

    `influence` of a node is cumulative, as the viewer expects: the share of all influence that nodes of at least its
    influence have. A difference of two logits has the probability 1, because the viewer reads one in every logit.
    `scores` in the metadata is not part of circuit-tracer's layout.
    """
    shares = dict(zip(graph.names, cumulative(graph.nodes["influence"].to_numpy()).tolist(), strict=True))
    small = graph.pruned(nodes, edges)
    layers = len(graph.transcoders)
    logits = iter(small.logits)
    tokens = _token_texts(graph, tokenizer)
    written, ids = [], []
    for name, node in zip(small.names, small.nodes.to_dict("records"), strict=True):
        logit = next(logits) if node["kind"] == LOGIT else ""
        entry = _node(node, layers, logit)
        if node["kind"] != LOGIT:
            entry["influence"] = shares[name]
        if node["kind"] == FEATURE:
            entry["clerp"] = (labels or {}).get(name, "")
        entry["is_target_logit"] = node["kind"] == LOGIT and logit == graph.logits[0]
        written.append(entry)
        ids.append(entry["node_id"])
    links = [
        {"source": ids[source], "target": ids[target], "weight": float(small.values[target, source])}
        for target, source in zip(*small.values.nonzero(), strict=True)
    ]
    scan = "custom-" + hashlib.sha256("\n".join(graph.transcoders).encode()).hexdigest()[:16]
    metadata = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": list(graph.transcoders),
        "prompt_tokens": tokens,
        "prompt": "".join(tokens),
        "node_threshold": nodes,
        "schema_version": 1,
        "scores": {
            "replacement_score": _none_if_nan(graph.replacement_score),
            "completeness_score": _none_if_nan(graph.completeness_score),
            "agreement": _none_if_nan(graph.agreement),
        },
    }
    view = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": view, "nodes": written, "links": links}


def _node(node: Mapping[Any, Any], layers: int, logit: str) -> dict[str, Any]:
    kind, layer, position, feature = node["kind"], node["layer"], node["position"], node["feature"]
    match kind:
        case "feature":
            own: dict[str, Any] = {"node_id": f"{layer}_{feature}_{position}", "jsNodeId": f"{layer}_{feature}-0"}
            own |= {"feature": cantor(layer, feature), "activation": node["value"]}
        case "error":
            own = {"node_id": f"{layer}_error_{position}", "jsNodeId": f"{layer}_{position}-0", "feature": -1}
        case "token":
            own = {"node_id": f"E_{feature}_{position}", "jsNodeId": f"E_{feature}-{position}", "feature": position}
        case _:
            own = {"node_id": f"{layers + 1}_{feature}_{position}", "jsNodeId": f"L_{feature}-{position}"}
            own |= {"feature": feature, "token_prob": node["weight"]}
            own |= {"clerp": f'Output "{logit}" (p={node["weight"]:.3f})'}
    place = {TOKEN: "E", LOGIT: str(layers + 1)}.get(kind, str(layer))
    common = {"layer": place, "ctx_idx": position, "feature_type": TYPES[kind], "token_prob": 0.0, "run_idx": 0}
    return common | {"reverse_ctx_idx": 0, "clerp": "", "influence": None, "activation": None} | own


def cantor(layer: int, feature: int) -> int:
    """The number of the pair of two whole numbers ≥ 0, unique to it."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def _token_texts(graph: AttributionGraph, tokenizer: Tokenizer | None) -> list[str]:
    if tokenizer is None:
        return list(graph.tokens)
    ids = graph.nodes["feature"][graph.nodes["kind"] == TOKEN]
    return [tokenizer.decode([int(one)]) for one in ids]


def _none_if_nan(value: float) -> float | None:
    return value if value == value else None


def _graphs(index: Path) -> list[dict[str, Any]]:
    """The graphs that an index lists; none if there is no index."""
    if not index.exists():
        return []
    try:
        found = json.loads(index.read_text("utf-8"))["graphs"]
        return [dict(one) for one in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(f"{index} lists no graphs, or is damaged: {reason(error)}") from error

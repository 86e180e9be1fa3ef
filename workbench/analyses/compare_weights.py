"""Distances between the weights of two checkpoints, read from their files in blocks of rows."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from workbench.analyses.support.cost import Work, work_of
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.named_tensors import NamedTensors, WeightsLike, weights_of
from workbench.checkpoints import CheckpointLike, locate, open_weights
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report
from workbench.results import Grid, Measures, Scores

MATRICES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "post_attention_layernorm": "attn_norm",
    "post_feedforward_layernorm": "mlp_norm",
}
OUTSIDE = {"model.embed_tokens": "embed", "model.norm": "ln_final", "lm_head": "unembed"}
HEADED = ("q", "k", "v", "o")
BLOCK = 2**19
"""How many numbers one thread compares at a time: few enough for the processor's cache, so several passes are fast."""

TITLES = {
    "relative_change": "Relative change of weights from A to B",
    "cosine": "Cosine of A's weights and B's",
    "distance": "Distance between A's weights and B's",
    "norm_a": "Norm of A's weights",
    "norm_b": "Norm of B's weights",
}
UNITS = {
    "relative_change": "‖B − A‖ / ‖A‖",
    "cosine": "⟨A, B⟩ / ‖A‖ ‖B‖",
    "distance": "‖B − A‖",
    "norm_a": "‖A‖",
    "norm_b": "‖B‖",
}
WEIGHTS_WHEN_EQUAL = {"cosine": 1.0, "norm_a": math.nan, "norm_b": math.nan}


class Named(NamedTuple):
    """A tensor's place in the model: its layer (None outside the layers), its short name in this module (`q`, `gate`,
    …), and its name in the checkpoint.
    """

    layer: int | None
    matrix: str
    tensor: str


class Directions(NamedTuple):
    """The strongest singular directions of a difference: B − A ≈ Σ strength · left ⊗ right."""

    strengths: Scores
    left: Tensor  # direction row
    right: Tensor  # direction column


@dataclass(frozen=True)
class Sums:
    """Squared norms of A, B and B − A, float64: one number for each head, or one for the whole tensor."""

    a: np.ndarray
    b: np.ndarray
    difference: np.ndarray

    def measures(self) -> dict[str, np.ndarray]:
        """The measures of `UNITS`; undefined (NaN) where they would divide by a zero norm."""
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = (self.a + self.b - self.difference) / 2
            return {
                "relative_change": np.where(self.a > 0, np.sqrt(self.difference / self.a), np.nan),
                "cosine": np.where(self.a * self.b > 0, inner / np.sqrt(self.a * self.b), np.nan),
                "distance": np.sqrt(self.difference),
                "norm_a": np.sqrt(self.a),
                "norm_b": np.sqrt(self.b),
            }

    def total(self) -> "Sums":
        """The sums over all heads."""
        return Sums(*(part.sum(keepdims=True) for part in (self.a, self.b, self.difference)))


def compare_weights(
    a: WeightsLike, b: WeightsLike, *, heads_of: str | None = None, progress: Progress | None = None
) -> Measures:
    """How much the weights changed from A to B, for every matrix and layer; or for every layer and head of q, k, v or
    o.

    Returns Grids of matrix × layer; with `heads_of` ("q", "k", "v" or "o") Grids of layer × head of that matrix. Norms
    are Frobenius norms:

    - `relative_change`: ‖B − A‖ / ‖A‖: 0 for equal matrices, √2 for unrelated matrices of equal norm.
    - `cosine`: ⟨A, B⟩ / ‖A‖ ‖B‖ of the two matrices as vectors: 1 for equal directions, 0 for unrelated matrices.
    - `distance`: ‖B − A‖; `norm_a`: ‖A‖; `norm_b`: ‖B‖.

    The part of a head is its rows of q, k and v, and its columns of o; k and v are split by key-value head. The
    embedding and other tensors outside the layers are in `weight_table`.

    A and B may be models in memory, or checkpoints, whose files are read block by block in either layout without
    building a model.

    Errors: WorkbenchError if the two differ in their tensors or in the shape of one.
    """
    first, second = weights_of(a), weights_of(b)
    known = [named for named in _tensors(first, second) if named.layer is not None]
    if heads_of is None:
        rows = list(dict.fromkeys(named.matrix for named in known))
        found = {(n.matrix, n.layer): s.total().measures() for n, s in _all_sums(first, second, known, progress)}
        columns = [str(layer) for layer in range(first.config.num_hidden_layers)]
        return _grids(
            {m: [[found[row, int(c)][m][0] for c in columns] for row in rows] for m in UNITS},
            (rows, columns),
            ("matrix", "layer"),
        )
    if heads_of not in HEADED:
        raise WorkbenchError(f"heads_of={heads_of!r}; choices: {', '.join(HEADED)}")
    mine = [named for named in known if named.matrix == heads_of]
    layers = [sums.measures() for _, sums in _all_sums(first, second, mine, progress)]
    heads = range(len(layers[0]["distance"]))
    return _grids(
        {m: np.stack([layer[m] for layer in layers]) for m in UNITS},
        ([str(named.layer) for named in mine], [str(head) for head in heads]),
        ("layer", "head" if heads_of in "qo" else "key-value head"),
        f": {heads_of}",
    )


@work_of(compare_weights)
def _work(a: WeightsLike, b: WeightsLike, **_: object) -> Work:
    files = [open_weights(locate(one)) for one in (a, b) if isinstance(one, CheckpointLike)]
    return Work(0, read=sum(each.nbytes for each in files))


def weight_table(a: WeightsLike, b: WeightsLike, *, progress: Progress | None = None) -> pd.DataFrame:
    """The measures of `compare_weights` for every tensor and every head, in one table, from one pass over both
    checkpoints.

    Columns: `tensor`, `layer`, `matrix`, `head` (such as L3H5; empty for whole tensors), and the measures.

    Errors: WorkbenchError if the two differ in their tensors or in the shape of one.
    """
    first, second = weights_of(a), weights_of(b)
    rows = []
    for named, sums in _all_sums(first, second, _tensors(first, second), progress):
        place = {"tensor": named.tensor, "layer": named.layer, "matrix": named.matrix}
        rows.append({**place, "head": "", **{m: values[0] for m, values in sums.total().measures().items()}})
        if named.layer is not None and len(sums.a) > 1:
            measures = sums.measures()
            for head in range(len(sums.a)):
                each = {m: values[head] for m, values in measures.items()}
                rows.append({**place, "head": head_name(named.layer, head), **each})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def singular_directions(
    a: WeightsLike, b: WeightsLike, layer: int | None, matrix: str, *, count: int = 8, seed: int = 0
) -> Directions:
    """The strongest directions of the change of one matrix: singular values and vectors of B − A, largest first.

    Returns `count` directions, or as many as the matrix has. `layer` is None for matrices outside the layers. The
    result is exact up to float32 rounding, also for a flat spectrum: Lanczos iterations (ARPACK; Lehoucq, Sorensen and
    Yang 1998) start from a random vector, decided by `seed`, and run until they converge. If `count` is more than a
    quarter of all directions, all are computed (LAPACK). Memory: three tensors of the size of the matrix.

    Errors: WorkbenchError if there is no such matrix, or the two differ in their tensors or in the shape of one.
    """
    first, second = weights_of(a), weights_of(b)
    there = [named for named in _tensors(first, second) if len(first.shape(named.tensor)) == 2]
    named = next((n for n in there if (n.layer, n.matrix) == (layer, matrix)), None)
    if named is None:
        names = ", ".join(dict.fromkeys(n.matrix for n in there))
        raise WorkbenchError(f"no matrix {matrix!r} in layer {layer}; matrices: {names} (embed, unembed: layer None)")
    rows, columns = first.shape(named.tensor)
    difference = second.rows(named.tensor, 0, rows).float()
    difference -= first.rows(named.tensor, 0, rows)
    count = min(count, rows, columns)
    left, strengths, right = _strongest(difference.numpy(), count, seed)
    scores = Scores(
        strengths,
        [str(index) for index in range(count)],
        title=f"Singular values of the change of {matrix}" + ("" if layer is None else f" in layer {layer}"),
        value_name="singular value",
    )
    return Directions(scores, torch.from_numpy(left.T.copy()), torch.from_numpy(right.copy()))


def _strongest(matrix: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The left singular vectors (row direction), the singular values, largest first, and the right singular vectors
    (direction column).
    """
    if 4 * count > min(matrix.shape) or not matrix.any():
        left, strengths, right = np.linalg.svd(matrix, full_matrices=False)
        return left[:, :count], strengths[:count], right[:count]
    from scipy.sparse.linalg import svds  # imported here: it would delay the start of the page by 0.2 s

    start = np.random.default_rng(seed).standard_normal(min(matrix.shape)).astype(matrix.dtype)
    left, strengths, right = svds(matrix, count, ncv=max(40, 3 * count), v0=start)
    falling = np.argsort(-strengths)
    return left[:, falling], strengths[falling], right[falling]


def _tensors(a: NamedTensors, b: NamedTensors) -> list[Named]:
    """The tensors that both checkpoints have, in the order of the model, embedding first."""
    if set(a) != set(b):
        odd = sorted(set(a) ^ set(b))
        raise WorkbenchError(f"the checkpoints have different architectures: only one has {', '.join(odd[:3])}")
    for name in a:
        if a.shape(name) != b.shape(name):
            raise WorkbenchError(f"the checkpoints differ in size: {name} is {a.shape(name)} and {b.shape(name)}")
    named = [_named(name) for name in a]
    order = [*OUTSIDE.values(), *MATRICES.values()]
    return sorted(named, key=lambda n: (-1 if n.layer is None else n.layer, order.index(n.matrix.split(" ")[0])))


def _named(tensor: str) -> Named:
    path, _, kind = tensor.rpartition(".")
    ending = "" if kind == "weight" else f" {kind}"
    if path in OUTSIDE:
        return Named(None, OUTSIDE[path] + ending, tensor)
    _, _, layer, part = path.split(".", 3)
    return Named(int(layer), MATRICES[part] + ending, tensor)


def _all_sums(
    a: NamedTensors, b: NamedTensors, tensors: list[Named], progress: Progress | None
) -> Iterator[tuple[Named, Sums]]:
    """The sums of each tensor, one after the other. Progress is measured in numbers read."""
    done, total = 0, sum(math.prod(a.shape(named.tensor)) for named in tensors)
    with _workers() as pool:
        for named in tensors:
            report(progress, done / total, f"comparing weights: {named.tensor}")
            yield named, _squared_norms(a, b, named, pool)
            done += math.prod(a.shape(named.tensor))
    report(progress, 1.0, "compared weights")


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A pool with as many threads as torch uses. Each worker computes on one thread only, since a block is too small to
    share.
    """
    libraries, threads = ThreadpoolController(), torch.get_num_threads()

    def alone() -> None:
        torch.get_num_threads()  # otherwise torch would reset the thread count of this worker later
        libraries.select(user_api="openmp").limit(limits=1)  # limits this worker only

    with libraries.limit(limits=1), ThreadPoolExecutor(threads, initializer=alone) as pool:
        yield pool


def _squared_norms(a: NamedTensors, b: NamedTensors, named: Named, pool: ThreadPoolExecutor) -> Sums:
    """Squared norms for each head if the tensor has heads, otherwise for the whole tensor; read in blocks of rows."""
    rows, *inner = a.shape(named.tensor)
    config = a.config
    groups = {"q": config.num_attention_heads, "o": config.num_attention_heads}.get(
        named.matrix, config.num_key_value_heads if named.matrix in HEADED else 1
    )
    by_column = named.matrix == "o"
    in_group, most = rows if by_column else rows // groups, max(1, BLOCK // math.prod(inner))
    starts = [start for group in range(0, rows, in_group) for start in range(group, group + in_group, most)]

    def squares(start: int) -> np.ndarray:
        stop = min(start + most, (start // in_group + 1) * in_group)
        x, y = (source.rows(named.tensor, start, stop).float() for source in (a, b))
        return _squares_by_column(x, y, groups) if by_column else _squares(x.flatten(), y.flatten())

    sums = np.zeros((3, groups))
    for start, block in zip(starts, pool.map(squares, starts), strict=True):
        sums[:, slice(None) if by_column else start // in_group] += block
    return Sums(*sums)


def _squares(x: Tensor, y: Tensor) -> np.ndarray:
    """Squared norms of x, y and y − x."""
    squares = x.dot(x), y.dot(y)
    y = y.sub_(x)  # y is a copy made for this comparison; a third block would not stay in the cache
    return torch.stack([*squares, y.dot(y)]).double().numpy()


def _squares_by_column(x: Tensor, y: Tensor, groups: int) -> np.ndarray:
    """Squared norms of x, y and y − x for `groups` equal parts of the columns: kind group."""
    parts = [part.square().sum(0).unflatten(0, (groups, -1)).sum(1) for part in (x, y, y - x)]
    return torch.stack(parts).double().numpy()


def _grids(
    measures: dict[str, object], labels: tuple[list[str], list[str]], names: tuple[str, str], of: str = ""
) -> Measures:
    return Measures(
        **{
            measure: Grid(
                values,
                *labels,
                row_name=names[0],
                column_name=names[1],
                title=f"{TITLES[measure]}{of}",
                value_name=UNITS[measure],
                signed=measure == "cosine",
                value_when_equal=WEIGHTS_WHEN_EQUAL.get(measure, 0.0),
            )
            for measure, values in measures.items()
        }
    )

"""How much each head reads of what each earlier head writes, from the weights alone."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import d_head_of
from hooks.weights import Factored
from workbench.analyses.support.cost import Work, work_of
from workbench.analyses.support.head_matrices import centred, head_matrices
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.memory import Reader, reader_config
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Grid, Measures

READS = {"q": "queries", "k": "keys", "v": "values"}
LEAST_SAMPLES = 2  # of random matrices, for a deviation


@torch.no_grad()
def head_composition(
    model: OlmoForCausalLM,
    *,
    distance: int | None = None,
    samples: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measures:
    """Composition scores of all pairs of heads: how much of one head's output another head reads in its q, k and v.

    Returns three Grids, the head that writes × the head that reads, 0 to 1; undefined (NaN) where the reader is not in
    a later layer. The scores are

        q: ‖W_OV W_QK‖ / (‖W_OV‖ ‖W_QK‖)      the reader's query reads the writer's output
        k: ‖W_OV W_QKᵀ‖ / (‖W_OV‖ ‖W_QK‖)     the reader's key reads the writer's output
        v: ‖W_OV W_OV'‖ / (‖W_OV‖ ‖W_OV'‖)    the reader's value reads the writer's output

    where W_OV is that of the writer, and W_QK and W_OV' are those of the reader. Norms are Frobenius norms, and vectors
    are rows (Elhage et al. 2021, "A mathematical framework for transformer circuits"). The products are exact, and no
    matrix is larger than d_model × d_head. The matrices include the norms between the heads, except for the divisors,
    which cancel here or differ between tokens (see `HeadMatrices`). Heads that share keys and values share parts of
    these scores. MLPs between the heads are left out.

    Random matrices of the same shapes do not have a score of 0, so only scores far above theirs mean something. The
    mean, standard deviation and highest score of `samples` random pairs are in the provenance of each Grid
    (`random_mean`, `random_deviation`, `random_highest`).

    Args:
        distance: the number of tokens from the query back to the key, for RoPE; None leaves the rotation out.
        samples: pairs of random matrices, at least 2.

    Errors: WorkbenchError for `samples` below 2, a negative distance, or a model of one layer.
    """
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if layers < 2:
        raise WorkbenchError("composition is between heads of different layers; this model has one layer")
    if distance is not None and distance < 0:
        raise WorkbenchError(f"distance is {distance}; a key is 0 or more tokens before its query")
    random = random_composition(model, samples=samples, seed=seed)
    scores = torch.full((3, layers * heads, layers * heads), torch.nan)
    writers: list[Factored] = []
    for layer in steps(range(layers), progress, "composition of heads"):
        reader = head_matrices(model, layer, distance=distance)
        for before, writer in enumerate(writers):
            rows, columns = (slice(place * heads, (place + 1) * heads) for place in (before, layer))
            for kind, read in enumerate((reader.qk, reader.qk.T, reader.ov)):
                scores[kind, rows, columns] = composition(writer, read).cpu()
        writers.append(reader.ov)
    names = [head_name(layer, head) for layer in range(layers) for head in range(heads)]
    about = f"random matrices {random['random_mean']:.3f} ± {random['random_deviation']:.3f}"
    return Measures(
        **{
            kind: Grid(
                scores[number, :-heads, heads:],
                names[:-heads],
                names[heads:],
                row_name="head that writes",
                column_name="head that reads",
                title=f"How much {reads} read of earlier heads ({kind.upper()}-composition; {about})",
                value_name="composition",
                value_when_equal=float("nan"),
                provenance={"distance": distance, **random},
            )
            for number, (kind, reads) in enumerate(READS.items())
        }
    )


@work_of(head_composition)
def _work(model: Reader, *, samples: int = 100, **_: object) -> Work:
    config = reader_config(model)
    layers, heads, width = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    d_head = d_head_of(config)
    pairs = heads**2 * layers * (layers - 1) / 2
    of_pairs = 3 * pairs * (2 * d_head**2 * width + 4 * d_head**3)
    of_grams = layers * heads * 4 * 2 * d_head**2 * width
    matrices = (layers + 6) * 2 * heads * d_head * width
    return Work(
        of_pairs + of_grams + samples * 6 * d_head**2 * width,
        nbytes=4 * (matrices + 3 * (layers * heads) ** 2 + 2 * heads**2 * d_head**2),
    )


def composition(writers: Factored, readers: Factored) -> Tensor:
    """‖A B‖ / (‖A‖ ‖B‖) for each matrix A that writes and B that reads: writer reader.

    Args:
        writers, readers: … d_model d_model of one head each.
    """
    middle = torch.einsum("hrd,gds->hgrs", writers.right, readers.left)  # rank rank of each pair
    left, right = writers.left.mT @ writers.left, readers.right @ readers.right.mT
    squares = torch.einsum("hrq,hgrs,gst,hgqt->hg", left, middle, right, middle)
    return squares.clamp_min(0).sqrt() / (writers.norm()[:, None] * readers.norm())


def random_composition(model: OlmoForCausalLM, *, samples: int = 100, seed: int = 0) -> dict[str, float]:
    """`random_mean`, `random_deviation` and `random_highest` of the score of two products of Gaussian matrices of this
    model's shapes."""
    if samples < LEAST_SAMPLES:
        raise WorkbenchError(f"samples is {samples}; the spread of random matrices needs at least {LEAST_SAMPLES}")
    width, d_head = model.config.hidden_size, model.model.blocks[0].self_attn.head_dim
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(samples):
        parts = torch.randn(4, 1, width, d_head, generator=generator)
        a, b, c, d = centred(parts, 2) if model.model.blocks[0].norm_first else parts
        found.append(composition(Factored(a, b.mT), Factored(c, d.mT)))
    scores = torch.cat(found)
    return {
        "random_mean": float(scores.mean()),
        "random_deviation": float(scores.std()),
        "random_highest": float(scores.max()),
    }

"""Export of a recording to one Arrow file."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.activations.plan import Site
from workbench.activations.reading import Activations
from workbench.whole_files import output_file

ROWS = 4096  # of a record batch
AS_FLOAT32 = (torch.bfloat16,)  # Arrow has no such type


def to_arrow(stored: Activations, path: str | Path) -> None:
    """Write a recording to an Arrow stream; see `Activations.to_arrow`."""
    import pyarrow as pa  # only here: it takes 0.2 s to import

    path = Path(path)
    schema = _schema(stored)
    with output_file(path) as file, pa.ipc.new_stream(file, schema) as writer:
        for columns in _columns(stored, schema):
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _schema(stored: Activations) -> Any:  # noqa: ANN401 - a schema of pyarrow
    import pyarrow as pa

    places = [pa.field("text", pa.int64()), pa.field("position", pa.int64()), pa.field("token", pa.int64())]
    labels = [] if stored.labels is None else [pa.field("label", pa.string())]
    sites = [_field(name, site) for name, site in stored.plan.sites.items()]
    about = {"checkpoint": stored.plan.checkpoint, "weights": stored.plan.weights, **stored.plan.versions}
    return pa.schema([*places, *labels, *sites], metadata=about)


def _field(name: str, site: Site) -> Any:  # noqa: ANN401 - a field of pyarrow
    import pyarrow as pa

    stored = torch.float32 if site.torch_dtype in AS_FLOAT32 else site.torch_dtype
    number = pa.from_numpy_dtype(torch.empty(0, dtype=stored).numpy().dtype)
    about = {"shape": json.dumps(site.sizes), "dtype": site.dtype}
    return pa.field(name, pa.list_(number, prod(site.sizes)), metadata=about)


def _columns(stored: Activations, schema: Any) -> Iterator[list[Any]]:  # noqa: ANN401 - of pyarrow
    """The columns of each record batch."""
    import pyarrow as pa

    for rows in torch.arange(stored.rows).split(ROWS):
        text = stored.text[rows]
        columns = [pa.array(column.numpy()) for column in (text, stored.position[rows], stored.token[rows])]
        if stored.labels is not None:
            columns.append(pa.array([stored.labels[number] for number in text.tolist()], pa.string()))
        for name, site in stored.items():
            columns.append(pa.FixedSizeListArray.from_arrays(_as_arrow(site[rows]), type=schema.field(name).type))
        yield columns


def _as_arrow(values: Tensor) -> Any:  # noqa: ANN401 - an array of pyarrow
    import pyarrow as pa

    return pa.array((values.float() if values.dtype in AS_FLOAT32 else values).reshape(-1).numpy())

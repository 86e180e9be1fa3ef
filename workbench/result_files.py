"""Results on disk: `result.save("lens.npz")` and `load_result("lens.npz")`.

A file is an uncompressed NumPy archive: one entry for each array, named after its field, and the entry `header` with
everything else as UTF-8 JSON. So other programs can read the numbers: `numpy.load("lens.npz")["values"]`. Nothing in a
file is run when it is read: there are no pickles, and the class of a result must be one of this package.

The format follows the fields of the classes: a new field of a result is saved too, and a file without it gets the
field's default.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any, Self
from zipfile import is_zipfile

import numpy as np
import pandas as pd
import torch

from workbench.errors import WorkbenchError, reason, shown
from workbench.whole_files import output_file

FORMAT = 1
HEADER = "header"
TAKEN = frozenset([HEADER, "file", "allow_pickle"])  # the last two are names of arguments of `numpy.savez`
KINDS: dict[str, type["Storable"]] = {}
"""The classes of results by their full names: `workbench.results.Grid`."""


class Storable:
    """A dataclass that `save` writes to a file and `load_result` reads.

    A subclass that is not a dataclass defines `stored_fields` and `of_fields`.
    """

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - whatever the next class takes
        super().__init_subclass__(**options)
        KINDS[_name(cls)] = cls

    def save(self, path: str | Path) -> None:
        """Write the result with its provenance to one `.npz` file, completely or not at all.

        `load_result` reads it back without any loss: every number bit for bit, labels, texts and provenance.

        Errors: WorkbenchError if the file cannot be written, or if a field holds an object that cannot be stored, for
        example a function in the provenance.
        """
        _write_npz(Path(path), self)

    def table(self) -> pd.DataFrame:
        """The numbers of the result as a tidy table."""
        raise NotImplementedError

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """A copy of the result, with these entries added to its provenance."""
        own: Mapping[str, Any] = self.provenance  # type: ignore[attr-defined]  # a field of every dataclass but `Measures`
        return dataclasses.replace(self, provenance={**own, **provenance})  # type: ignore[type-var]  # as above

    def stored_fields(self) -> Mapping[str, Any]:
        """What is written, by name."""
        assert dataclasses.is_dataclass(self)
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """A result of what was written. Errors: WorkbenchError for a field that the class does not have."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # as above
        if unknown := sorted(set(fields) - known):
            raise WorkbenchError(
                f"it has a {cls.__name__} with {', '.join(unknown)}, which this version does not know; "
                "a newer version of the workbench wrote it"
            )
        return cls(**fields)


def save_results(results: Mapping[str, Storable], path: str | Path) -> None:
    """Write several results, by name, to one file; `load_result` then returns a dict of them.

    Errors: as `save`, and WorkbenchError if there are no results.
    """
    if not results:
        raise WorkbenchError(f"there are no results to write to {path}")
    _write_npz(Path(path), dict(results))


def load_result(path: str | Path) -> Any:  # noqa: ANN401 - a result of any class
    """The result that `save` wrote to a file; of a file with several results, a dict of them by name.

    Errors: WorkbenchError if the file cannot be read, is damaged, is not a saved result, or was written by a newer
    version of the workbench.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not is_zipfile(file):  # NumPy would advise to load it unsafely
                raise ValueError("it is not a whole .npz archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                header = json.loads(archive[HEADER].tobytes())
                _check_format(header["format"])
                found = _decoded(header["value"], archive)
    except WorkbenchError as error:
        raise WorkbenchError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror or reason(error)}") from error
    except Exception as error:  # a damaged archive can raise any error
        raise WorkbenchError(f"{path} is not a saved result, or is damaged: {reason(error)}") from error
    results = found.values() if isinstance(found, dict) else [found]
    if not results or not all(isinstance(result, Storable) for result in results):
        raise WorkbenchError(f"{path} is not a saved result: it holds {shown(found)}")
    return found


def part_of_result(result: Storable, name: str) -> Any:  # noqa: ANN401 - a result of any class
    """A part of a result: one of the measures of `Measures`, or the field of another result."""
    return result.stored_fields()[name]


def _write_npz(path: Path, value: Storable | Mapping[str, Storable]) -> None:
    arrays: dict[str, np.ndarray] = {}
    header = {"format": FORMAT, "value": _encoded(value, "", arrays)}
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with output_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _check_format(number: object) -> None:
    if not isinstance(number, int) or number > FORMAT:
        raise WorkbenchError(
            f"it has the format {shown(number)}, and this version of the workbench reads formats up to {FORMAT}"
        )


def _name(kind: type) -> str:
    """The full name of a class in files. Classes of `workbench.results` are named after the package, not their file."""
    module = "workbench.results" if kind.__module__.startswith("workbench.results.") else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _class_of(name: str) -> type[Storable]:
    """The class of a full name, whose module is imported if it is one of this package."""
    if name not in KINDS and re.fullmatch(r"workbench(\.[a-z]\w*)+\.\w+", name):
        with suppress(ImportError):
            import_module(name.rpartition(".")[0])
    if name not in KINDS:
        raise WorkbenchError(f"it has a {shown(name)}, a kind of result that this version does not know")
    return KINDS[name]


def _encoded(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:  # noqa: ANN401
    """A value as JSON; its arrays are added to `arrays`, named after `place`, the path of fields to the value.

    None, booleans, whole numbers, floats and strings stand for themselves. Any other value is `{kind: content}`.
    Errors: WorkbenchError with the place of an object that cannot be stored.
    """

    def within(name: object, one: object) -> Any:  # noqa: ANN401
        return _encoded(one, f"{place}.{name}" if place else str(name), arrays)

    match value:
        case None | bool():
            return value
        case str():
            return str(value)
        case np.ndarray() if value.dtype.hasobject:
            return {"objects": [within("text", one) for one in value.ravel().tolist()], "shape": list(value.shape)}
        case np.ndarray() | np.generic():
            name = _free_name(place, arrays)
            arrays[name] = np.asarray(value)
            return {"array" if isinstance(value, np.ndarray) else "scalar": name}
        case torch.Tensor():
            name = _free_name(place, arrays)
            numbers = value.detach().cpu().contiguous()  # NumPy has no bfloat16
            arrays[name] = (numbers.view(torch.int16) if value.dtype == torch.bfloat16 else numbers).numpy()
            return {"tensor": name, "dtype": str(value.dtype).removeprefix("torch.")}
        case int() | float():
            return value
        case list():
            return {"list": [within("item", one) for one in value]}
        case tuple():
            return {"tuple": [within("item", one) for one in value]}
        case Storable():
            fields = value.stored_fields()
            return {"result": _name(type(value)), "fields": {name: within(name, one) for name, one in fields.items()}}
        case Mapping():
            return {"dict": [[within("name", name), within(name, one)] for name, one in value.items()]}
        case pd.DataFrame():
            columns = [[name, str(value[name].dtype), value[name].to_numpy()] for name in value]
            return {"table": within("column", columns)}
        case PurePath():
            return {"path": str(value)}
        case torch.dtype() | torch.device():
            return {type(value).__name__: str(value)}
    raise WorkbenchError(f"{place} is {shown(value)}, which cannot be stored in a file")


def _decoded(value: Any, archive: Mapping[str, np.ndarray]) -> Any:  # noqa: ANN401
    """The value of what `_encoded` returned."""
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    match kind:
        case "array" | "scalar":
            array = np.array(archive[content])
            array.setflags(write=False)
            return array if kind == "array" else array[()]
        case "tensor":
            return torch.from_numpy(np.array(archive[content])).view(getattr(torch, value["dtype"]))
        case "objects":
            array = np.empty(len(content), dtype=object)
            array[:] = [_decoded(one, archive) for one in content]
            return array.reshape(value["shape"])
        case "list" | "tuple":
            found = [_decoded(one, archive) for one in content]
            return found if kind == "list" else tuple(found)
        case "dict":
            return {_decoded(name, archive): _decoded(one, archive) for name, one in content}
        case "table":
            columns = _decoded(content, archive)
            return pd.DataFrame({name: pd.Series(array, dtype=dtype) for name, dtype, array in columns})
        case "result":
            return _class_of(content).of_fields({name: _decoded(one, archive) for name, one in value["fields"].items()})
        case "path":
            return Path(content)
        case "dtype":
            return getattr(torch, content.removeprefix("torch."))
        case "device":
            return torch.device(content)
    raise WorkbenchError(f"it holds a {shown(kind)}, which this version does not know")


def _free_name(place: str, arrays: Mapping[str, np.ndarray]) -> str:
    """A name for an array that is not taken: its place, with `_` for characters that some archivers do not take."""
    wanted = re.sub(r"[^A-Za-z0-9_.-]", "_", place)[:100] or "values"
    numbered = (f"{wanted}_{number}" for number in count(2))
    return next(name for name in chain([wanted], numbered) if name not in arrays and name not in TAKEN)

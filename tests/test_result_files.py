"""A saved result is loaded without any loss, and a file that is something else is refused with a sentence."""

import dataclasses
import errno
import math
import re
import struct
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.io
import pytest
import torch

from tests.sources import SOURCES
from workbench.analyses.circuit import Circuit
from workbench.analyses.faithfulness import Faithfulness
from workbench.analyses.support.direction import Direction
from workbench.analyses.token_inspection import Inspection
from workbench.errors import WorkbenchError
from workbench.features.births import FeatureBirths
from workbench.features.births_on_texts import MeasuredBirths
from workbench.features.graph import AttributionGraph
from workbench.features.qk_attribution import QKAttribution
from workbench.generation import Written
from workbench.plots import plot
from workbench.report import as_csv, report_of_all
from workbench.result_files import FORMAT, KINDS, Storable, load_result, save_results
from workbench.results import Curves, Estimated, Grid, Labelled, Maps, Measures, Points, Scores

HOSTILE = ["", " ", "\0", "\n\r\t", "=1+1", "a" * 300, "ß", "∞ 🜁", "../x", '","', "None", "nan"]
SIGNALLING = struct.unpack("<f", b"\x01\x00\xa0\x7f")[0]
ODD = np.array([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3.4e38, SIGNALLING, 0.1, 1, -1, 2, 3], np.float32)
PROVENANCE = {
    "nothing": None,
    "flag": True,
    "large": 2**70,
    "fraction": 0.1,
    "minus zero": -0.0,
    "endless": math.inf,
    "numbers": np.arange(3),
    "one": np.float32(0.1),
    "nested": {"a": [1, (2, "three")], 4: None},
    "dtype": torch.bfloat16,
    "device": torch.device("cpu"),
    "path": Path("a/b"),
    "half of a pair": "\ud800",
    **{text: text for text in HOSTILE},
}
TENSOR = torch.tensor([[0x7FC1, 0x8000]], dtype=torch.uint16).view(torch.bfloat16)
SHARED = {
    "title": "\ud800 <b>",
    "value_name": "loss",
    "unit": "nats",
    "signed": True,
    "as_percent": True,
    "value_when_equal": math.nan,
    "provenance": PROVENANCE,
}
GRID = Grid(
    ODD.reshape(2, 6),
    HOSTILE[:2],
    HOSTILE[:6],
    row_name="file",
    column_name="header",
    text=[HOSTILE[:6], HOSTILE[6:]],
    errors=ODD[::-1].reshape(2, 6),
    texts=7,
    **SHARED,
)
MAPS = Maps(ODD.reshape(1, 2, 6), ["L0H0"], HOSTILE[:6], queries=[2, 5], **SHARED)
CURVES = {
    "values": ODD.reshape(2, 6),
    "lines": HOSTILE[:2],
    "x": range(6),
    "x_name": "file",
    "x_labels": HOSTILE[:6],
    "errors": ODD[::-1].reshape(2, 6),
    "texts": [3, 4],
}
EXAMPLES = {
    Grid: GRID,
    Maps: MAPS,
    Scores: Scores(
        ODD[:3],
        HOSTILE[:3],
        total=-0.0,
        errors=ODD[5:8],
        texts=[1, 2, 2**40],
        **(SHARED | {"value_when_equal": [0, 1, math.nan]}),
    ),
    Circuit: Circuit(
        ODD[:3],
        HOSTILE[:3],
        exact=ODD[5:8],
        effect=-0.0,
        scale_error=math.nan,
        measure="\0",
        replacement="zero",
        **SHARED,
    ),
    AttributionGraph: AttributionGraph(
        ODD[:9].reshape(3, 3),
        nodes=pd.DataFrame(
            {
                "kind": ["feature", "token", "logit"],
                **{name: [2, -1, 2**40] for name in ("layer", "position", "feature")},
                **{
                    name: ODD[:3] for name in ("value", "constant", "weight", "influence", "effect", "measured", "held")
                },
            }
        ),
        tokens=HOSTILE[:3],
        logits=HOSTILE[4:5],
        transcoders=HOSTILE[:2],
        replacement_score=math.nan,
        completeness_score=-0.0,
        **SHARED,
    ),
    QKAttribution: QKAttribution(ODD.reshape(2, 6), HOSTILE[:2], HOSTILE[:6], score=-0.0, weight=math.nan, **SHARED),
    Curves: Curves(**CURVES, **SHARED),
    Faithfulness: Faithfulness(**CURVES, **SHARED, deviation=ODD[3:9]),
    Points: Points(
        ODD.reshape(4, 3),
        HOSTILE[:4],
        ["a", "b", "c"],
        colour=ODD[:4],
        colour_name="file",
        shares=ODD[4:7],
        share_errors=ODD[6:9],
        texts=2,
        **SHARED,
    ),
    Measures: Measures(file=GRID, header=dataclasses.replace(GRID, text=None), self=GRID),
    Written: Written(
        ODD[:3],
        HOSTILE[:3],
        [5, 0, 2**40],
        [(), (("\0", 1, 0.1), ("b", 2, 1e-300)), (("c", 3, 0.0),)],
        given=2,
        **SHARED,
    ),
    Direction: Direction("blocks.1.resid_post", torch.tensor([-0.0, 1e-45, 3.0]), "made \0", {"tensor": TENSOR}),
    FeatureBirths: FeatureBirths(
        "\0",
        ("a@step0", "a@step2"),
        (0, 2**40),
        ("a@step2-order2",),
        ODD[:9].reshape(3, 3),
        at_end=False,
        provenance=PROVENANCE,
    ),
    MeasuredBirths: MeasuredBirths(
        dictionary="",
        checkpoints=("a@step0",),
        steps=(0,),
        others=(),
        norms=ODD[:2].reshape(2, 1),
        tokens=2**40,
        counts=np.array([3, 0]),
        density=ODD[2:4].reshape(2, 1),
        mean=ODD[4:6].reshape(2, 1),
        scaled=ODD[6:8].reshape(2, 1),
        refit=ODD[8:10],
        in_error=ODD[8:10].reshape(2, 1),
        in_reconstruction=ODD[:2].reshape(2, 1),
        twin=np.array([1, -1]),
        likeness=ODD[:2],
        family=np.array([-1, 2**40]),
    ),
    Inspection: Inspection(
        3,
        pd.DataFrame({"token": HOSTILE, "id": range(12), "probability": ODD}),
        pd.DataFrame(),
        MAPS,
        GRID,
        provenance=PROVENANCE,
    ),
}


def all_kinds() -> set[type]:
    """The classes of results of the whole package; the modules that define some are imported for this."""
    bases = "Storable|Labelled|Estimated|Grid|Maps|Scores|Curves|Points"
    for module, path in SOURCES.items():
        if re.search(rf"^class \w+\(({bases})\b", path.read_text(), re.M):
            import_module(module)
    return {kind for name, kind in KINDS.items() if name.startswith("workbench.")} - {Labelled, Estimated}


def check_same(one: object, other: object) -> None:
    """Check that two values are of one type and equal in every bit."""
    assert type(one) is type(other)
    if isinstance(one, Storable):
        check_same(dict(one.stored_fields()), dict(other.stored_fields()))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            check_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            check_same(a, b)
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist() if one.dtype.hasobject else one.tobytes() == other.tobytes()
    elif isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, float):
        assert struct.pack("d", one) == struct.pack("d", other)
    else:
        assert one == other


def test_every_class_of_results_is_among_the_examples() -> None:
    """So a new class cannot be forgotten here."""
    assert all_kinds() == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, kind) -> None:
    given = EXAMPLES[kind]
    given.save(tmp_path / "result.npz")
    found = load_result(str(tmp_path / "result.npz"))
    check_same(given, found)
    assert [path.name for path in tmp_path.iterdir()] == ["result.npz"]


@pytest.mark.parametrize("kind", [Grid, Maps, Scores, Curves, Points, Written], ids=lambda kind: kind.__name__)
def test_every_field_differs_from_its_default_in_some_example(kind) -> None:
    """Otherwise a field that is not stored would not be noticed."""
    booleans = {"log", "log_x", "log_y", "ordered", "surprisal"}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING and field.name not in booleans:
            given = getattr(EXAMPLES[kind], field.name)
            assert given is not field.default, f"give the example of {kind.__name__} a value of {field.name}"


@pytest.mark.parametrize("name", ["log_y", "ordered", "surprisal", "log_x"])
def test_flags_are_kept(tmp_path, name) -> None:
    Curves([[1.0]], ["a"], [0], **{name: True}).save(tmp_path / "c")
    assert getattr(load_result(tmp_path / "c"), name) is True


def test_a_new_field_of_a_class_is_saved_and_an_old_file_gets_its_default(tmp_path, monkeypatch) -> None:
    Later = dataclasses.make_dataclass(
        "Later", [("count", object, dataclasses.field(default=None, kw_only=True))], bases=(Scores,), frozen=True
    )
    monkeypatch.setitem(KINDS, "workbench.results.Scores", Later)
    Scores([1.0], ["a"]).save(tmp_path / "old")
    assert load_result(tmp_path / "old").count is None
    monkeypatch.setitem(KINDS, f"{Later.__module__}.Later", Later)
    Later([1.0], ["a"], count=[7, 8]).save(tmp_path / "new")
    assert load_result(tmp_path / "new").count == [7, 8]
    monkeypatch.setitem(KINDS, f"{Later.__module__}.Later", Scores)
    with pytest.raises(WorkbenchError, match="Scores with count, which this version does not know"):
        load_result(tmp_path / "new")


def test_numbers_can_be_read_by_numpy_alone(tmp_path) -> None:
    EXAMPLES[Measures].save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert archive["file.values"].tobytes() == GRID.values.tobytes()


def test_several_results_in_one_file(tmp_path) -> None:
    given = {"a/b": GRID, "\0": EXAMPLES[Measures]}
    save_results(given, tmp_path / "both.npz")
    found = load_result(tmp_path / "both.npz")
    check_same(given, found)
    report = report_of_all(found, "both")
    assert [section.title for section in report.sections] == list(given) and report.results == found
    assert "numbers" in report.provenance
    with pytest.raises(WorkbenchError, match="there are no results to write to"):
        save_results({}, tmp_path / "none.npz")


def test_what_cannot_be_stored_is_named_and_writes_nothing(tmp_path) -> None:
    with pytest.raises(WorkbenchError, match=r"provenance\.edit is <function .*cannot be stored"):
        Scores([1], ["a"], provenance={"edit": check_same}).save(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    path = tmp_path / "x.npz"
    GRID.save(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(WorkbenchError, match=r"x.npz cannot be written: No space left"):
        patch.setattr(np, "savez", full)
        EXAMPLES[Maps].save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(WorkbenchError, match="cannot be written: No such file"):
        GRID.save(tmp_path / "no" / "x.npz")
    if Path("/dev/full").exists():
        with pytest.raises(WorkbenchError, match="/dev/full cannot be written: No space left on device"):
            GRID.save("/dev/full")


def of_header(path: Path, header: bytes, **arrays: object) -> Path:
    np.savez(path, header=np.frombuffer(header, np.uint8), **arrays)
    return path


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b'{"format": %d, "value": null}' % (FORMAT + 1), "has the format 2, and this version"),
        (b'{"format": "x", "value": null}', "has the format 'x'"),
        (b'{"value": null}', "not a saved result, or is damaged"),
        (b"\xff", "not a saved result"),
        (b"[" * 100_000, "not a saved result"),
        (b'{"format": 1, "value": 5}', "it holds 5"),
        (b'{"format": 1, "value": {"dict": []}}', "it holds {}"),
        (b'{"format": 1, "value": {"frame": 1}}', "holds a 'frame', which this version does not know"),
        (b'{"format": 1, "value": {"result": "workbench.results.Cube", "fields": {}}}', "has a 'workbench.results.Cu"),
        (b'{"format": 1, "value": {"result": "workbench.nothing.Cube", "fields": {}}}', "a kind of result that this"),
        (b'{"format": 1, "value": {"result": "os.system", "fields": {}}}', "has a 'os.system', a kind of result"),
        (b'{"format": 1, "value": {"result": "workbench.results.Scores", "fields": {}}}', "or is damaged: .*values"),
        (
            b'{"format": 1, "value": {"result": "workbench.results.Scores", "fields": '
            b'{"values": {"array": "values"}, "names": {"tuple": ["a", "b"]}}}}',
            r"or is damaged: values are \(1,\) but there are 2 names",
        ),
    ],
)
def test_headers_of_other_files_are_refused(tmp_path, header, sentence) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        load_result(of_header(tmp_path / "x.npz", header, values=np.ones(1)))


def test_files_of_other_kinds_are_refused(tmp_path) -> None:
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    np.savez(tmp_path / "pickle.npz", header=np.array([{"a": 1}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(WorkbenchError, match=f"{path.name} is not a saved result"):
            load_result(path)
    with pytest.raises(WorkbenchError, match=r"none\.npz cannot be read: No such file"):
        load_result(tmp_path / "none.npz")
    with pytest.raises(WorkbenchError, match="cannot be read: Is a directory"):
        load_result(tmp_path)


def test_damage_is_found_or_changes_nothing(tmp_path) -> None:
    """A flipped bit and a cut, at places all over the file: an error, or the very same result."""
    given = Scores(ODD, HOSTILE, provenance={"a": [1, 2]})
    given.save(tmp_path / "x.npz")
    whole = (tmp_path / "x.npz").read_bytes()
    flips = [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(0, len(whole), 3)]
    cuts = [whole[:n] for n in range(0, len(whole), 41)]
    refused = 0
    for damaged in flips + cuts:
        (tmp_path / "y.npz").write_bytes(damaged)
        try:
            found = load_result(tmp_path / "y.npz")
        except WorkbenchError:
            refused += 1
        else:
            check_same(given, found)
    assert refused > len(cuts) + len(flips) / 2


def test_results_draw_and_show_themselves(monkeypatch) -> None:
    grid = Grid([[1.0, 2.0]], ["a"], ["b", "c"])
    assert grid.plot().to_dict()["data"][0]["type"] == "heatmap"
    assert Measures(a=grid).plot("a").to_json() == plot(grid).to_json()
    assert EXAMPLES[Written].plot().to_dict()["data"][0]["type"] == "scatter"
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    assert "application/vnd.plotly.v1+json" in grid._repr_mimebundle_()
    assert EXAMPLES[Measures]._repr_html_().count("<tr") > 3
    with pytest.raises(KeyError, match="no measure 'other'; there are file, header, self"):
        EXAMPLES[Measures].plot("other")


def test_a_loaded_result_makes_the_same_table(tmp_path) -> None:
    given = EXAMPLES[Curves]
    given.save(tmp_path / "c.npz")
    written = [as_csv(report_of_all({"c": one}, "c")) for one in (given, load_result(tmp_path / "c.npz"))]
    assert written[0] == written[1]

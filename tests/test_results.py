"""Result types check their shapes, are frozen, and give tidy tables."""

import dataclasses

import numpy as np
import pytest
import torch

from workbench.results import Curves, Grid, Maps, Measures, Points, Scores


def grid(values: object = None, **options: object) -> Grid:
    return Grid(torch.arange(6.0).reshape(2, 3) if values is None else values, ["a", "b"], ["x", "y", "x"], **options)


SHAPES = [
    grid(text=[["p", "q", "r"], ["s", "t", "u"]]),
    Maps(torch.rand(2, 2, 3), ["L0H0", "L0H1"], ["a", "b", "c"], queries=[0, 2]),
    Scores(torch.tensor([1.0, -2.0]), ["embed", "L0H0"], total=-1.0),
    Curves(np.ones((2, 3)), ["one", "two"], [0, 1, 2], errors=np.zeros((2, 3)), x_labels=["a", "b", "c"]),
    Points(np.ones((3, 2)), ["a", "b", "c"], ["PC1", "PC2"], colour=[1, 2, 3]),
]


@pytest.mark.parametrize("result", SHAPES, ids=lambda r: type(r).__name__)
def test_values_are_read_only_float32(result: Grid) -> None:
    assert result.values.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        result.values[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.title = "other"


def test_a_result_does_not_change_with_the_tensor_it_was_born_from() -> None:
    tensor = torch.zeros(2, 3)
    result = grid(tensor)
    tensor += 1
    assert (result.values == 0).all()


def test_tensors_of_any_kind_are_taken() -> None:
    values = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert (grid(values).values == 1).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Grid(np.zeros((3, 9)), range(3), range(8)), r"values are \(3, 9\) but there are 3 rows and 8 columns"),
        (
            lambda: Grid(np.zeros((1, 2)), ["a"], ["x", "y"], text=[["t"]]),
            r"texts are \(1, 1\) but there are 1 row and",
        ),
        (lambda: grid(np.zeros((2, 3)), log=True), r"a logarithmic scale cannot show 0"),
        (lambda: Maps(np.zeros((1, 2, 2)), ["h"], ["a"]), r"1 head, 1 query positions and 1 token"),
        (lambda: Maps(np.zeros((1, 1, 2)), ["h"], ["a", "b"], queries=[2]), r"query positions \[2\] are outside"),
        (lambda: Scores(np.zeros(2), ["a"]), r"values are \(2,\) but there are 1 name"),
        (lambda: Curves(np.zeros((1, 2)), ["a"], [0]), r"1 line and 1 points"),
        (lambda: Curves(np.zeros((1, 2)), ["a"], [0, 1], errors=[[0]]), r"errors are \(1, 1\)"),
        (lambda: Curves(np.zeros((1, 2)), ["a"], [0, 1], x_labels=["p"]), r"labels are \(1,\)"),
        (lambda: Points(np.zeros((1, 4)), ["a"], list("wxyz")), r"two or three axes, not 4"),
        (lambda: Points(np.zeros((1, 2)), ["a"], ["x", "y"], colour=[1, 2]), r"colours are \(2,\)"),
    ],
)
def test_a_shape_that_contradicts_its_labels_is_refused(make: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_grid_table_finds_each_cell_again() -> None:
    result = grid(text=[["p", "q", "r"], ["s", "t", "u"]])
    table = result.table()
    assert len(table) == 6
    for row in table.itertuples():
        assert row.value == result.values[row.row, row.column]
        assert row.text == result.text[row.row, row.column]
        assert (row.layer, row.position) == (result.rows[row.row], result.columns[row.column])


def test_rank_sorts_and_leaves_out_what_is_undefined() -> None:
    values = torch.tensor([[0.0, 3.0, float("nan")], [5.0, 1.0, 2.0]])
    assert grid(values).rank().value.tolist() == [5, 3, 2, 1, 0]
    assert grid(values).rank(largest=False).value.tolist() == [0, 1, 2, 3, 5]


def test_a_maps_table_holds_what_a_causal_model_can_see() -> None:
    maps = SHAPES[1]
    table = maps.table()
    assert (table.key <= table["query"]).all()
    assert len(table) == 2 * (1 + 3)
    last = table.iloc[-1]
    assert (last.query_token, last.key_token, last.value) == ("c", "c", maps.values[1, 1, 2])


def test_top_scores_are_the_furthest_from_zero() -> None:
    assert SHAPES[2].top(1).names == ("L0H0",)


def test_curves_and_points_tables_hold_everything() -> None:
    assert list(SHAPES[3].table()) == ["line", "position", "label", "value", "standard_error"]
    assert list(SHAPES[4].table()) == ["name", "PC1", "PC2", "position"]
    assert len(SHAPES[3].table()) == 6


def test_measures_share_labels_and_rank_by_any_of_them() -> None:
    measures = Measures(up=grid(), down=grid(-torch.arange(6.0).reshape(2, 3)))
    assert measures.rank("up").up.tolist() == measures.rank("down", largest=False).up.tolist() == [5, 4, 3, 2, 1, 0]
    assert list(measures.table()) == ["row", "column", "layer", "position", "up", "down"]
    with pytest.raises(KeyError, match="no measure 'sideways'; there are up, down"):
        measures["sideways"]
    with pytest.raises(ValueError, match="'b' does not have the shape and labels of 'a'"):
        Measures(a=grid(), b=Grid(torch.zeros(2, 3), ["a", "b"], ["x", "y", "z"]))


def test_provenance_is_added_and_kept() -> None:
    result = grid().with_provenance({"checkpoint": "tiny"}).with_provenance({"seed": 1})
    assert result.provenance == {"checkpoint": "tiny", "seed": 1}
    assert Measures(a=grid()).with_provenance({"seed": 1})["a"].provenance == {"seed": 1}

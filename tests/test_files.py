"""Weight files are read exactly, a few rows at a time, and broken ones are refused with the reason and the file."""

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from workbench.checkpoints.files import PickleFile, SafetensorsFile, tensor_files
from workbench.errors import WorkbenchError

TENSORS = {
    "matrix": torch.arange(60, dtype=torch.float32).reshape(12, 5),
    "half": torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "vector": torch.arange(9, dtype=torch.float16),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "ids": torch.arange(6).reshape(2, 3),
}


class Code:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (print, ("this must never be printed",))


@pytest.fixture(params=["safetensors", "pickle", "old pickle"])
def file(request, tmp_path):
    if request.param == "safetensors":
        save_file(TENSORS, tmp_path / "model.safetensors")
        return SafetensorsFile(tmp_path / "model.safetensors")
    torch.save(TENSORS, tmp_path / "model.pt", _use_new_zipfile_serialization=request.param == "pickle")
    return PickleFile(tmp_path / "model.pt")


def test_entries_say_shape_and_dtype(file):
    assert set(file.entries) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (file.entries[name].shape, file.entries[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert file.entries[name].nbytes == tensor.nbytes


@pytest.mark.parametrize(("start", "stop"), [(0, 12), (3, 8), (11, 12), (4, 4)])
def test_rows_are_those_of_the_tensor(file, start, stop):
    assert torch.equal(file.rows("matrix", start, stop), TENSORS["matrix"][start:stop])


@pytest.mark.parametrize("name", TENSORS)
def test_whole_tensors_are_read_to_the_last_bit(file, name):
    tensor = TENSORS[name]
    assert torch.equal(file.rows(name, 0, len(tensor) if tensor.ndim else 1), tensor)


def test_what_is_read_is_the_readers_own(file):
    file.rows("matrix", 0, 3).zero_()
    assert torch.equal(file.rows("matrix", 0, 3), TENSORS["matrix"][:3])


@pytest.mark.parametrize("keep", [0, 5, 40, -1, -30])
def test_a_safetensors_file_that_is_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WorkbenchError, match=r"model\.safetensors.*truncated"):
        SafetensorsFile(path).entries  # noqa: B018


def test_a_file_longer_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WorkbenchError, match="describes only"):
        SafetensorsFile(path).entries  # noqa: B018


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"x": 3}', "broken"),
        ('{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "needs 8 bytes"),
        ('{"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}', "needs|gives"),
        (
            '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
            '"y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
            "gives 'x' and 'y' the same bytes",
        ),
        ('{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}', "F99"),
    ],
)
def test_a_broken_header_is_refused_with_the_reason(tmp_path, header, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    with pytest.raises(WorkbenchError, match=reason):
        SafetensorsFile(path).entries  # noqa: B018


def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, capsys):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2), "code": Code()}, path)
    with pytest.raises(WorkbenchError, match=r"model\.pt holds pickled code"):
        PickleFile(path).entries  # noqa: B018
    path.write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(WorkbenchError, match=r"model\.pt"):
        PickleFile(path).entries  # noqa: B018
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_a_pickle_that_is_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "model.pt"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WorkbenchError, match=r"model\.pt"):
        PickleFile(path).entries  # noqa: B018


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "model.pt")
    with pytest.raises(WorkbenchError, match="not a dictionary of dense tensors"):
        PickleFile(tmp_path / "model.pt").entries  # noqa: B018


def test_safetensors_come_before_pickles_and_shards_before_single_files(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert [file.path.name for file in tensor_files(tmp_path)] == ["pytorch_model.bin"]
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert [file.path.name for file in tensor_files(tmp_path)] == ["model.safetensors"]
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert [file.path.name for file in tensor_files(tmp_path)] == ["one.safetensors"]


def test_missing_shards_and_ways_out_of_the_folder_are_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(WorkbenchError, match=r"incomplete.*one\.safetensors"):
        tensor_files(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(WorkbenchError, match="outside its folder"):
        tensor_files(tmp_path)
    index.write_text("{}")
    with pytest.raises(WorkbenchError, match="no weight_map"):
        tensor_files(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(WorkbenchError, match=r"looked for.*model\.safetensors.*found notes\.txt"):
        tensor_files(tmp_path)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("model_and_optim/.metadata", r"convert_checkpoint_to_hf\.py"),
        ("model_and_optim/__0_0.distcp", r"convert_checkpoint_to_hf\.py"),
        ("model/rank0.pt", r"unshard\.py"),
        ("rank3.pt", r"unshard\.py"),
        ("__0_0.distcp", "dcp_to_torch_save"),
    ],
)
def test_shards_of_a_distributed_run_are_refused_with_what_converts_them(tmp_path, file, remedy):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    with pytest.raises(WorkbenchError, match=f"{tmp_path.name} holds the shards of a distributed run.*{remedy}"):
        tensor_files(tmp_path)


def test_shards_without_an_index_are_half_written(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(WorkbenchError, match=r"incomplete.*model-00001-of-00002.*index"):
        tensor_files(tmp_path)

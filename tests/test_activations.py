"""Activations on disk are those of the model, bit for bit, and a stopped or damaged recording is made whole again."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import pyarrow
import pytest
import torch
from safetensors import safe_open

import workbench.activations.shards as shards_module
from hooks import Capture
from tests.preloaded import ROOT, Forked
from workbench.activations import Activations, record, recording
from workbench.activations.plan import INDEX, TEXTS
from workbench.errors import WorkbenchError
from workbench.texts import Texts

SITE = "blocks.1.resid_post"
LENGTHS = [5, 3, 5, 1, 7, 3, 5]
ROW_BYTES = 32 * 4 + 8  # of SITE in float32


@pytest.fixture(scope="module")
def olmo(make_model):
    return make_model("olmo2")


@pytest.fixture(scope="module")
def texts() -> Texts:
    generator = torch.Generator().manual_seed(0)
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.randint(1, 99, (length,), generator=generator) for length in LENGTHS], batch_first=True
    )
    mask = torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]
    return Texts(ids, mask, labels=[f"label {number % 2}" for number in range(len(LENGTHS))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "acts"


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal in every bit."""
    bits = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def alone(model, ids: torch.Tensor, site: str) -> torch.Tensor:
    """The activation of a site in a run of one text: pos …"""
    return model.run(ids[None], capture=site)[site][0]


def test_every_row_is_the_models(family, make_model, texts, folder):
    model = make_model(family)
    sites = ["blocks.*.resid_post", "blocks.2.attn.z", "embed", "ln_final.scale"]
    stored = record(model, texts, sites, folder)
    assert list(stored) == list(model.run(texts[0][None], capture=sites))
    for name in stored:
        for text, ids in enumerate(texts):
            rows = stored.rows_of(text)
            torch.testing.assert_close(
                stored[name][rows.start : rows.stop], alone(model, ids, name), rtol=1e-4, atol=1e-4
            )


def test_a_round_trip_changes_no_bit(olmo, texts, folder):
    """In the batches that were run, in the dtype of the model and in bfloat16, and infinite or undefined values too."""
    stored = record(olmo, texts, [SITE, Capture("blocks.2.mlp.post", dtype=torch.bfloat16)], folder)
    for batch in texts.batches(stored.plan.batch_tokens):
        run = olmo.run(batch.ids, capture=[SITE, "blocks.2.mlp.post"])
        for row, text in enumerate(batch.rows):
            rows = stored.rows_of(text)
            assert same(stored[SITE][rows.start : rows.stop], run[SITE][row])
            assert same(stored["blocks.2.mlp.post"][rows.start : rows.stop], run["blocks.2.mlp.post"][row].bfloat16())
    odd = torch.tensor([0x7FC1, 0xFFA5, 0x7F80, 0x8000, 0x0001], dtype=torch.uint16).view(torch.bfloat16)
    shards_module.write_shard(folder / "odd", {"x": odd}, "test")
    found = shards_module.open_shard(folder / "odd", "test", {"x": (torch.bfloat16, (5,))}, check_digest=True)
    assert same(found["x"], odd)


def test_rows_know_their_text_position_token_and_label(olmo, texts, folder):
    stored = record(olmo, texts, SITE, folder, shard_bytes=4 * ROW_BYTES)
    assert stored.plan.shards == (7, 15, 7) and stored.rows == sum(LENGTHS) == len(stored[SITE])
    assert stored.text.tolist() == [text for text, length in enumerate(LENGTHS) for _ in range(length)]
    assert stored.position.tolist() == [position for length in LENGTHS for position in range(length)]
    assert torch.equal(stored.token, torch.cat(list(texts)))
    assert stored.labels == texts.labels
    assert torch.equal(stored.texts.ids, texts.ids) and torch.equal(stored.texts.mask, texts.mask)
    assert [stored.rows_of(text) for text in (0, 3)] == [range(0, 5), range(13, 14)]
    with pytest.raises(WorkbenchError, match="no text 7; there are 7"):
        stored.rows_of(7)


def test_shards_change_nothing(olmo, texts, tmp_path):
    one = record(olmo, texts, SITE, tmp_path / "one")
    many = record(olmo, texts, SITE, tmp_path / "many", shard_bytes=1)
    assert len(one.plan.shards) == 1 and len(many.plan.shards) == 4  # a shard for each length
    assert same(one[SITE][:], many[SITE][:])


def test_positions_and_heads(olmo, texts, folder):
    captures = [Capture("blocks.*.attn.z", heads=[-1, 0]), Capture("blocks.0.attn.k", heads=slice(1))]
    stored = record(olmo, texts, captures, folder, positions=[-1, 0])
    assert stored.position.tolist() == [0, 4, 0, 2, 0, 4, 0, 0, 6, 0, 2, 0, 4]  # once where the last is the first
    assert stored.plan.sites["blocks.3.attn.z"].heads == (3, 0)
    for text, ids in enumerate(texts):
        rows = stored.rows_of(text)
        z = alone(olmo, ids, "blocks.3.attn.z")[stored.position[rows.start : rows.stop]][:, [3, 0]]
        torch.testing.assert_close(stored["blocks.3.attn.z"][rows.start : rows.stop], z)


def test_rows_are_indexed_as_a_tensor_is(olmo, texts, folder):
    site = record(olmo, texts, SITE, folder, shard_bytes=1)[SITE]
    whole = site[:]
    mask = torch.arange(len(site)) % 3 == 0
    for rows in (7, -1, slice(2, 20, 5), slice(None, None), [5, 3, 5], torch.tensor([28, 0]), mask, slice(0, 0)):
        assert same(site[rows], whole[rows])
    for outside in (29, -30, [29]):
        with pytest.raises(IndexError):
            site[outside]
    assert site.shape == (29, 32) and site.dtype == torch.float32


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_batches_hold_every_row_once(olmo, texts, folder, seed):
    stored = record(olmo, texts, [SITE, "embed"], folder, shard_bytes=1)
    batches = list(stored.batches(4, seed=seed))
    rows = torch.cat([batch.rows for batch in batches])
    assert rows.sort().values.tolist() == list(range(29)) and [len(batch.rows) for batch in batches] == [4] * 7 + [1]
    for batch in batches:
        assert list(batch) == ["embed", SITE] and all(same(batch[name], stored[name][batch.rows]) for name in batch)
    again = torch.cat([batch.rows for batch in stored.batches(4, seed=seed, sites=["embed"])])
    assert torch.equal(rows, again)
    assert (rows.tolist() == list(range(29))) is False
    with pytest.raises(WorkbenchError, match="size is 0"):
        next(stored.batches(0))


def test_seeds_differ(olmo, texts, folder):
    stored = record(olmo, texts, SITE, folder)
    first, second = (next(iter(stored.batches(29, seed=seed))).rows for seed in (0, 1))
    assert not torch.equal(first, second)


def test_nothing_is_computed_twice(olmo, texts, folder, monkeypatch):
    first = record(olmo, texts, SITE, folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(recording, "_make", None)
    heard = []
    again = record(olmo, texts, SITE, folder, progress=lambda fraction, text: heard.append(fraction))
    assert same(first[SITE][:], again[SITE][:]) and heard == [1.0]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_the_rest_of_a_stopped_recording_is_made(olmo, texts, tmp_path):
    whole = record(olmo, texts, SITE, tmp_path / "whole", shard_bytes=1)
    folder = tmp_path / "stopped"

    def stop(fraction: float, text: str) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(olmo, texts, SITE, folder, shard_bytes=1, progress=stop)
    there = sorted(path.name for path in folder.glob("0*.safetensors"))
    assert 0 < len(there) < 4
    with pytest.raises(WorkbenchError, match=f"stopped holds {len(there)} of 4 shards of a recording; call `record`"):
        Activations.open(folder)
    times = [(folder / name).stat().st_mtime_ns for name in there]
    stored = record(olmo, texts, SITE, folder)  # also with another size of shards
    assert same(stored[SITE][:], whole[SITE][:])
    assert [(folder / name).stat().st_mtime_ns for name in there] == times


def test_a_recording_that_was_begun_with_more_memory_goes_on(olmo, texts, folder, monkeypatch):
    begun = record(olmo, texts, SITE, folder)
    whole = begun[SITE][:]
    (folder / "00000.safetensors").unlink()
    sizes, run = [], olmo.run
    monkeypatch.setattr(recording, "tokens_at_a_time", lambda *_, **__: 5)
    monkeypatch.setattr(olmo, "run", lambda ids, **options: sizes.append(ids.numel()) or run(ids, **options))
    torch.testing.assert_close(record(olmo, texts, SITE, folder)[SITE][:], whole, rtol=1e-4, atol=1e-4)
    assert sorted(sizes) == [1, 1, 3, 3, 5, 5, 5, 7]  # the first is that of one token, for the shapes


KILLED = """
import sys, time, torch
from workbench import checkpoints
from workbench.activations import record
torch.set_num_threads(1)

def progress(fraction, text):
    if fraction > 0.5:
        open(sys.argv[4], "w").close()
        time.sleep(600)

model, texts = checkpoints.load(sys.argv[1])[0], torch.load(sys.argv[2])
record(model, texts, "embed", sys.argv[3], shard_bytes=1, progress=progress)
"""


@pytest.mark.slow
def test_another_process_waits_and_goes_on_when_the_first_is_killed(make_model, tmp_path):
    """SIGKILL in the middle of a recording: what was whole stays, and the lock of the dead process ends."""
    olmo, folder = make_model("olmo2"), tmp_path / "acts"
    olmo.save_pretrained(tmp_path / "model")
    texts = [torch.arange(1, 2 + length) for length in range(12)]
    torch.save(texts, tmp_path / "texts")
    given = [str(tmp_path / name) for name in ("model", "texts", "acts", "paused")]
    first = Forked(["python", "-c", KILLED, *given], ROOT, os.environ)
    try:
        while not (tmp_path / "paused").exists():
            assert first.poll() is None, "the first process has ended"
            time.sleep(0.02)
        there = {path: path.stat().st_mtime_ns for path in folder.glob("0*.safetensors")}
        (folder / ".0123456789abcdef.part").write_bytes(b"half of a shard")
        heard = []

        def progress(fraction: float, text: str) -> None:
            if not heard:
                assert text == f"waiting for another process that records into {folder}"
                first.kill()
            heard.append(text)

        stored = record(olmo, texts, "embed", folder, progress=progress)
    finally:
        first.kill()
        first.wait(60)
    assert len(there) == 7 and heard.count("recording activations") == 12 - 7 + 1
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())
    assert len(stored.plan.shards) == 12 and not list(folder.glob(".*.part"))
    stored.check()
    assert same(stored["embed"][:], torch.cat([olmo.run(ids[None], capture="embed")["embed"][0] for ids in texts]))


def test_threads_take_turns_and_the_second_computes_nothing(olmo, texts, folder):
    found, waited = [], threading.Event()

    def other() -> None:
        found.append(record(olmo, texts, SITE, folder, progress=lambda _, text: "waiting" in text and waited.set()))

    thread = threading.Thread(target=other)

    def progress(fraction: float, text: str) -> None:
        if not thread.ident:
            thread.start()
            assert waited.wait(60)

    first = record(olmo, texts, SITE, folder, progress=progress)
    thread.join(60)
    assert same(found[0][SITE][:], first[SITE][:])


def damages(path: Path) -> dict[str, bytes]:
    """What may happen to a file: a cut, a flipped bit in its header, in its data and in its digest, and its loss."""
    data = path.read_bytes()
    places = {"start": 0, "header": 20, "digest": data.index(b"part_of") + 150, "data": len(data) - 5}
    flipped = {name: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for name, at in places.items()}
    return {"cut": data[:-1], "empty": b"", "other": b"text", **flipped}


@pytest.mark.parametrize("name", ["00001.safetensors", TEXTS])
def test_a_damaged_file_is_found_and_made_again(olmo, texts, folder, name):
    stored = record(olmo, texts, SITE, folder, shard_bytes=1)
    whole, path = stored[SITE][:].clone(), folder / name
    before = path.read_bytes()
    for damage, content in damages(path).items():
        path.write_bytes(content)
        with pytest.raises(WorkbenchError, match=r"holds \d of 4 shards|damaged"):
            Activations.open(folder).check()
        assert same(record(olmo, texts, SITE, folder)[SITE][:], whole), damage
        assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(WorkbenchError, match="of 4 shards of a recording"):
        Activations.open(folder)
    record(olmo, texts, SITE, folder).check()


def test_a_shard_of_another_recording_does_not_count(olmo, texts, tmp_path):
    one = record(olmo, texts, SITE, tmp_path / "one", shard_bytes=1)[SITE][:]
    record(olmo, Texts(texts.ids % 90 + 2, texts.mask), SITE, tmp_path / "other", shard_bytes=1)
    (tmp_path / "one" / "00000.safetensors").write_bytes((tmp_path / "other" / "00000.safetensors").read_bytes())
    with pytest.raises(WorkbenchError, match="holds 3 of 4 shards"):
        Activations.open(tmp_path / "one")
    assert same(record(olmo, texts, SITE, tmp_path / "one")[SITE][:], one)


def test_another_recording_in_the_same_folder_is_refused_with_both(olmo, make_model, texts, folder):
    record(olmo, texts, SITE, folder, checkpoint="olmo@step1", positions=[0])
    again = {"model": olmo, "texts": texts, "capture": SITE, "folder": folder, "positions": [0]}
    others = {
        r"a recording of olmo@step1 \(weights \w{12}\), not olmo@step2 \(weights \w{12}\); give another folder": {
            "model": make_model("olmo2", seed=5),
            "checkpoint": "olmo@step2",
        },
        r"other texts \(\w{12}, not \w{12}\)": {"texts": texts[:3]},
        "other labels;": {"texts": Texts(texts.ids, texts.mask)},
        r"positions \[0\], not of every token": {"positions": None},
        f"{SITE} in float32, not embed in float32": {"capture": "embed"},
        f"{SITE} in float32, not {SITE} in bfloat16": {"dtype": torch.bfloat16},
    }
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for sentence, changed in others.items():
        with pytest.raises(WorkbenchError, match=sentence):
            record(**(again | changed))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert record(**again).plan.checkpoint == "olmo@step1"


def test_weights_that_differ_in_one_bit_or_in_the_config_have_another_digest(make_model):
    model = make_model("olmo2")
    before = recording.weights_digest(model)
    assert recording.weights_digest(make_model("olmo2")) == before
    assert recording.weights_digest(make_model("olmo2", rope_theta=5000.0)) != before
    model.model.norm.weight.data[3] += 1e-6
    assert recording.weights_digest(model) != before


def test_a_full_disk_is_a_sentence_and_leaves_what_was_whole(olmo, texts, folder, monkeypatch):
    write, written = shards_module.save, []

    def full(tensors: dict, metadata: dict) -> bytes:
        if "text" in tensors:
            written.append(metadata)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(tensors, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "save", full)
        sentence = r"00002.safetensors cannot be written: No space left on device; 2 of 4 shards are complete and kept"
        with pytest.raises(WorkbenchError, match=sentence):
            record(olmo, texts, SITE, folder, shard_bytes=1)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        "00000.safetensors",
        "00001.safetensors",
        TEXTS,
    ]
    record(olmo, texts, SITE, folder).check()


def test_too_little_room_is_known_before(olmo, texts, folder, monkeypatch):
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(WorkbenchError, match=r"needs 3\.944 kB more on the disk, and 1 kB are free"):
        record(olmo, texts, SITE, folder)
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_folders_that_cannot_be_written_or_hold_something_else(olmo, texts, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "no" / "folder"):
        with pytest.raises(WorkbenchError, match="cannot be written"):
            record(olmo, texts, SITE, folder)
    with pytest.raises(WorkbenchError, match=r"none holds no recording of activations: there is no index\.json"):
        Activations.open(tmp_path / "none")
    record(olmo, texts, SITE, tmp_path / "acts")
    index = tmp_path / "acts" / INDEX
    found = json.loads(index.read_text())
    for content, sentence in {
        "{": "is not the index of a recording, or is damaged",
        "[]": "is not the index of a recording, or is damaged",
        json.dumps(found | {"format": 2}): "has the format 2; this version of the workbench reads up to 1",
        json.dumps(found | {"rows": 5}): "5 rows in shards of 29",
        json.dumps(found | {"sites": {"embed": {"dtype": "load"}}}): "or is damaged",
    }.items():
        index.write_text(content)
        with pytest.raises(WorkbenchError, match=sentence):
            Activations.open(tmp_path / "acts")


@pytest.mark.parametrize(
    ("capture", "options", "sentence"),
    [
        ("blocks.0.attn.pattern", {}, "blocks.0.attn.pattern has the shape batch head query key; only activations"),
        (Capture("embed", positions=[1]), {}, "the capture of embed has positions, queries or reduce"),
        ([], {}, "capture is empty"),
        ("embed", {"positions": []}, "positions is empty"),
        ("embed", {"positions": [4]}, r"position 4 is outside a text of \d tokens"),
        ("nonsense", {}, "no site 'nonsense'"),
        (Capture("blocks.0.attn.z", heads=[9]), {}, "head 9 is outside"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_words(olmo, texts, folder, capture, options, sentence):
    with pytest.raises((WorkbenchError, ValueError, KeyError, IndexError), match=sentence):
        record(olmo, texts, capture, folder, **options)
    assert not folder.exists()


def test_other_programs_can_read_the_files(olmo, texts, folder):
    stored = record(olmo, texts, SITE, folder, checkpoint="olmo@step1")
    index = json.loads((folder / INDEX).read_text())
    assert (index["checkpoint"], index["rows"], index["sites"][SITE]["sizes"]) == ("olmo@step1", 29, [32])
    assert {"torch", "transformers", "numpy", "python", "made"} <= set(index["versions"])
    with safe_open(folder / "00000.safetensors", "np") as file:
        assert set(file.keys()) == {SITE, "text", "position"}
        assert file.get_tensor(SITE)[0].tolist() == stored[SITE][13].tolist()  # the text of one token comes first


def test_writing_to_a_tensor_does_not_change_the_file(olmo, texts, folder):
    stored = record(olmo, texts, SITE, folder)
    stored[SITE][:5].zero_()
    next(stored.batches(29))[SITE].zero_()
    stored.check()
    assert stored[SITE][:5].any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_arrow_holds_the_same_numbers(olmo, texts, folder, tmp_path, dtype):
    stored = record(olmo, texts, ["blocks.0.attn.z", SITE], folder, dtype=dtype)
    stored.to_arrow(tmp_path / "acts.arrow")
    table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(tmp_path / "acts.arrow"))).read_all()
    assert table["text"].to_pylist() == stored.text.tolist() and table["token"].to_pylist() == stored.token.tolist()
    assert table["position"].to_pylist() == stored.position.tolist()
    assert table["label"].to_pylist() == [texts.labels[text] for text in stored.text]
    for name, site in stored.items():
        about = table.schema.field(name).metadata
        assert json.loads(about[b"shape"]) == list(site.shape[1:]) and about[b"dtype"].decode() in str(site.dtype)
        numbers = torch.tensor(table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False))
        assert same(numbers.to(site.dtype).reshape(site.shape), site[:])
    with pytest.raises(WorkbenchError, match="cannot be written"):
        stored.to_arrow(tmp_path / "no" / "acts.arrow")

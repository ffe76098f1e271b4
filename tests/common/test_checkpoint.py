"""A checkpoint is whole or not there, says which file is damaged, and PEFT can read it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from common.config import AdapterConfig
from common.runs import checkpoint
from common.runs.checkpoint import CheckpointError, Snapshot
from tests.common.synthetic_checkpoint import (
    EVERY_FILE,
    FULL,
    LORA,
    assert_same,
    content,
    names,
    save,
    snapshot,
)


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch):
    """No test here cuts the power, so waiting for the disk would prove nothing."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- what is in it -------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("ema", [True, False])
def test_round_trip(tmp_path, adapter, ema):
    path = save(tmp_path / "checkpoints", snapshot(ema=ema), adapter)
    assert path == tmp_path / "checkpoints" / "000007"
    assert_same(checkpoint.load(path), snapshot(ema=ema))


def test_files_of_a_low_rank_checkpoint(tmp_path):
    path = save(tmp_path, snapshot())
    assert names(path) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "ema.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
    ]
    with safe_open(path / "adapter_model.safetensors", "numpy") as file:
        assert sorted(file.keys()) == [
            f"base_model.model.blocks.{block}.qkv.lora_{part}.weight"
            for block in (0, 1)
            for part in "AB"
        ]
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["lora_adapter_metadata"]) == {
        "r": 2,
        "lora_alpha": 16.0,
        "target_modules": ["m1", "m2", "o", "qkv"],
    }


def test_files_of_a_full_checkpoint(tmp_path):
    path = save(tmp_path, snapshot(ema=False), FULL)
    expected = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert names(path) == expected
    assert load_file(path / "model.safetensors").keys() == snapshot().parameters.keys()


def test_the_same_content_gives_the_same_bytes_in_any_order_and_process(tmp_path):
    value = snapshot()
    turned = Snapshot(
        value.update,
        dict(reversed(value.parameters.items())),
        dict(reversed((value.ema or {}).items())),
        dict(reversed(value.optimizer.items())),
        dict(reversed(value.state.items())),
    )
    first = content(save(tmp_path / "a", value))
    assert content(save(tmp_path / "b", turned)) == first
    # Another process has another hash seed, hence other orders of sets.
    code = (
        "import sys; from pathlib import Path; from common.runs import checkpoint as c;"
        "from common.config import AdapterConfig as A;"
        "c.save(Path(sys.argv[2]), c.load(Path(sys.argv[1])), adapter=A(rank=2), keep=0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a/000007"), str(tmp_path / "c")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "123"})
    assert content(tmp_path / "c/000007") == first


def test_every_type_and_shape_survives_and_the_library_reads_it(tmp_path):
    optimizer = {
        f"{dtype}-{shape}": np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for dtype in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
        for shape in ((), (6,), (2, 3))
    }
    optimizer["turned"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    optimizer["big-endian"] = np.arange(3, dtype=">f4")
    optimizer["empty"] = np.zeros((0, 3), dtype=np.float32)
    path = save(tmp_path, Snapshot(0, {}, None, optimizer, {}), FULL)
    for arrays in (load_file(path / "optimizer.safetensors"), checkpoint.load(path).optimizer):
        assert arrays.keys() == optimizer.keys()
        for name, array in optimizer.items():
            native = array.astype(array.dtype.newbyteorder("="))
            np.testing.assert_array_equal(arrays[name], native, strict=True)


def test_peft_loads_the_folder(tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = torch.nn.Linear(3, 9)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block(), Block()])

        def forward(self, x):
            return self.blocks[0].qkv(x)

    value, adapter = snapshot(), AdapterConfig(rank=2, alpha=8.0, targets=("qkv",))
    path = save(tmp_path, value, adapter)
    base = Model()
    x = torch.ones(1, 3)
    plain = base(x).detach().numpy()
    model = peft.PeftModel.from_pretrained(base, str(path))
    weights = peft.get_peft_model_state_dict(model)
    assert weights.keys() == {f"base_model.model.{name}" for name in value.parameters}
    a, b = (value.parameters[f"blocks.0.qkv.lora_{part}.weight"] for part in "AB")
    expected = plain + 8.0 / 2 * np.ones((1, 3), np.float32) @ a.T @ b.T
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_stored_is_refused_before_anything_is_there(tmp_path):
    complex_array = {"w": np.zeros(2, dtype=np.complex64)}
    cases = [
        (Snapshot(1, complex_array, None, {}, {}), "array 'w' of dtype complex64"),
        (Snapshot(1, {}, None, {}, {"when": object()}), r"state\.json: not plain JSON"),
        (Snapshot(1, {}, None, {}, {"loss": float("nan")}), r"state\.json: not plain JSON"),
    ]
    for value, message in cases:
        with pytest.raises(CheckpointError, match=message):
            save(tmp_path, value, FULL)
        assert names(tmp_path) == []


# --- keeping, finding, replacing -----------------------------------------------------------------


def test_keep_the_newest(tmp_path):
    for update in (1, 2, 3, 4):
        save(tmp_path, snapshot(update), keep=2)
    assert names(tmp_path) == ["000003", "000004"]
    save(tmp_path, snapshot(5), keep=0)
    assert names(tmp_path) == ["000003", "000004", "000005"]
    save(tmp_path, snapshot(6), keep=1)
    assert names(tmp_path) == ["000006"]


def test_the_one_just_saved_is_never_removed(tmp_path):
    save(tmp_path, snapshot(9))
    save(tmp_path, snapshot(3), keep=1)
    assert names(tmp_path) == ["000003", "000009"]


def test_latest_is_the_highest_complete_one(tmp_path):
    assert checkpoint.latest(tmp_path / "nothing") is None
    assert checkpoint.latest(tmp_path) is None
    for update in (2, 999_999, 1_000_000, 10):
        save(tmp_path, snapshot(update))
    assert checkpoint.latest(tmp_path) == tmp_path / "1000000"
    (tmp_path / "1000000" / "manifest.json").unlink()
    shutil.copytree(tmp_path / "000010", tmp_path / ".2000000.tmp-0badcafe")
    shutil.copytree(tmp_path / "000010", tmp_path / "3000000.backup")
    (tmp_path / "4000000").write_text("a file")
    assert checkpoint.latest(tmp_path) == tmp_path / "999999"


def test_a_checkpoint_of_the_same_update_is_replaced(tmp_path):
    save(tmp_path, snapshot(1))
    save(tmp_path, snapshot(1, scale=2.0))
    assert names(tmp_path) == ["000001"]
    assert_same(checkpoint.load(tmp_path / "000001"), snapshot(1, scale=2.0))


def test_killed_while_replacing_the_old_one_is_still_loaded_and_restored(tmp_path):
    save(tmp_path, snapshot(1))
    holder = tmp_path / ".000001.old-0badcafe"
    holder.mkdir()
    (tmp_path / "000001").rename(holder / "000001")
    newest = checkpoint.latest(tmp_path)
    assert newest == holder / "000001"
    assert_same(checkpoint.load(newest), snapshot(1))
    save(tmp_path, snapshot(2), keep=2)
    assert names(tmp_path) == ["000001", "000002"]
    assert_same(checkpoint.load(tmp_path / "000001"), snapshot(1))


def test_leftovers_of_killed_saves_are_swept_and_nothing_else(tmp_path):
    for leftover in (".000001.tmp-0badcafe", ".000001.gone-0badcafe", ".000001.old-0badcafe"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "adapter_model.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, snapshot(2))
    assert names(tmp_path) == ["000002", "notes.txt"]


def test_all_is_synced_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    events = []
    rename = os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync"))
    monkeypatch.setattr(os, "rename", lambda *a, **k: (events.append("rename"), rename(*a, **k))[1])
    save(tmp_path, snapshot())
    # Six files and their names; the folder's own name; the name of that.
    assert events == ["sync"] * 7 + ["rename", "sync"]


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "flipped"])
def test_each_damaged_file_is_named(tmp_path, name, damage):
    file = save(tmp_path, snapshot()) / name
    good = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(good[:-5])
    elif damage == "longer":
        file.write_bytes(good + b"\0")
    else:
        file.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "000007")
    message = str(caught.value)
    assert message.startswith(f"checkpoint {tmp_path / '000007'}: {name} ")
    assert "\n" not in message
    if name != "manifest.json":
        sizes = f"{len(good) + {'truncated': -5, 'longer': 1}.get(damage, 0)} bytes"
        reason = {"missing": "is missing", "flipped": "its hash differs"}.get(damage, sizes)
        assert reason in message


def test_any_flipped_bit_of_the_manifest_is_noticed(tmp_path):
    file = save(tmp_path, snapshot()) / "manifest.json"
    good = file.read_bytes()
    changed = 0
    for place in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[place] ^= 4
        try:
            same = json.loads(damaged) == json.loads(good)
        except ValueError:
            same = False
        if same:  # white space
            continue
        changed += 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / "000007")
    assert changed > 50


def test_another_format_and_a_missing_folder_give_different_errors(tmp_path):
    path = save(tmp_path, snapshot())
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99; this version reads 1"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*000008"):
        checkpoint.load(tmp_path / "000008")


@pytest.mark.parametrize("update", ["1e400", '"x"', "null", "[]"])
def test_an_update_that_is_no_number_is_one_line(tmp_path, monkeypatch, update):
    """A state whose hash is right: what can write it can write the manifest too."""
    folder = save(tmp_path, snapshot())
    (folder / checkpoint.STATE).write_text(f'{{"update": {update}, "state": {{}}}}')
    monkeypatch.setattr(checkpoint, "_verify", lambda path: set(EVERY_FILE))
    with pytest.raises(checkpoint.CheckpointError, match=r"state\.json has no update or state"):
        checkpoint.load(folder)

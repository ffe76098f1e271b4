"""A checkpoint is whole or not there, says which file is damaged, and PEFT can read it."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from common import checkpoint, files
from common.checkpoint import CheckpointError, Snapshot
from common.config import AdapterConfig

LORA, FULL = AdapterConfig(rank=2), AdapterConfig(kind="full")


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch):
    """No test here cuts the power, so waiting for the disk would prove nothing."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def snapshot(update: int = 7, *, ema: bool = True, scale: float = 1.0) -> Snapshot:
    random_numbers = np.random.default_rng(update)
    parameters = {
        f"blocks.{block}.qkv.lora_{part}.weight": (
            scale * random_numbers.normal(size=shape)
        ).astype(np.float32)
        for block in (1, 0)
        for part, shape in (("B", (9, 2)), ("A", (2, 3)))
    }
    moments = {
        f"{moment}/{name}": value * 0.5
        for moment in ("second", "first")
        for name, value in parameters.items()
    }
    return Snapshot(
        update=update,
        parameters=parameters,
        ema={name: value * 0.25 for name, value in parameters.items()} if ema else None,
        optimizer={"step": np.asarray(update, dtype=np.int64), **moments},
        state={"ema_steps": 3, "text": "größer", "list": [1, 2.5, None]},
    )


def save(folder: Path, value: Snapshot, adapter: AdapterConfig = LORA, keep: int = 0) -> Path:
    return checkpoint.save(folder, value, adapter=adapter, keep=keep)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(got: Snapshot, expected: Snapshot) -> None:
    assert (got.update, got.state) == (expected.update, expected.state)
    for part in ("parameters", "ema", "optimizer"):
        ours, theirs = getattr(got, part), getattr(expected, part)
        assert (ours is None) == (theirs is None)
        for name in (ours or {}).keys() | (theirs or {}).keys():
            np.testing.assert_array_equal(ours[name], theirs[name], strict=True)


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
        "import sys; from pathlib import Path; from common import checkpoint as c;"
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


def test_killed_while_replacing_the_old_one_is_still_found_and_put_back(tmp_path):
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

EVERY_FILE = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "ema.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
]


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
        told = {"missing": "is missing", "flipped": "its hash differs"}.get(damage, sizes)
        assert told in message


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


def test_another_format_and_a_missing_folder_are_told_apart(tmp_path):
    path = save(tmp_path, snapshot())
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99; this version reads 1"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*000008"):
        checkpoint.load(tmp_path / "000008")


# --- the disk is full, the folder is none --------------------------------------------------------


def test_a_full_disk_at_any_file_leaves_earlier_checkpoints_as_they_were(tmp_path, monkeypatch):
    before = content(save(tmp_path, snapshot(1)))
    original, full_at = files.write_new, ""

    def write(path, chunks):
        if path.name == full_at:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, chunks)

    monkeypatch.setattr(files, "write_new", write)
    for name in EVERY_FILE:
        full_at = name
        line = f"cannot save checkpoint {tmp_path / '000002'}: no space left on the device"
        with pytest.raises(OSError, match=f"^{re.escape(line)}$"):
            save(tmp_path, snapshot(2), keep=1)
        assert names(tmp_path) == ["000001"]
        assert content(tmp_path / "000001") == before
    full_at = ""
    save(tmp_path, snapshot(2), keep=1)
    assert names(tmp_path) == ["000002"]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from common import checkpoint, files
from common.config import AdapterConfig

resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for size in (10, 2000):
    value = checkpoint.Snapshot(size, {"w": np.ones(size, np.float32)}, None, {}, {})
    try:
        checkpoint.save(Path(sys.argv[1]), value, adapter=AdapterConfig(kind="full"), keep=1)
    except files.WriteError as error:
        print(error)
"""


def test_a_real_limit_in_the_middle_of_a_save(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == (
        f"cannot save checkpoint {tmp_path / '002000'}: "
        "the file would be larger than this process may write\n"
    )
    assert names(tmp_path) == ["000010"]
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "000010").parameters["w"], np.ones(10))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot save checkpoint .*: a folder on the way is a file"):
        save(tmp_path / "file" / "checkpoints", snapshot())


# --- killed at any moment ------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for the end of the process: from then on nothing more reaches the disk."""


def die_at(monkeypatch, step: int) -> None:
    """Let the process die at the `step`-th thing that it asks the file system to do."""
    done = 0

    def dying(original):
        def call(*arguments, **options):
            nonlocal done
            done += 1
            if done >= step:
                raise KilledError
            return original(*arguments, **options)

        return call

    for name in ("mkdir", "rename", "unlink", "rmdir", "fsync"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("update", [3, 2], ids=["next", "replacing"])
def test_killed_at_each_step_of_a_save(tmp_path, monkeypatch, update):
    for step in range(1, 100):
        folder = tmp_path / str(step)
        for earlier in (1, 2):
            save(folder, snapshot(earlier))
        with monkeypatch.context() as patch:
            die_at(patch, step)
            try:
                save(folder, snapshot(update, scale=2.0), keep=1)
                killed = False
            except KilledError:
                killed = True
        newest = checkpoint.latest(folder)
        assert newest is not None
        for path in {newest, *folder.glob("[0-9]*")}:
            value = checkpoint.load(path)  # the old one or the new one, whole
            old, new = snapshot(value.update), snapshot(value.update, scale=2.0)
            name = "blocks.0.qkv.lora_A.weight"
            is_old = np.array_equal(value.parameters[name], old.parameters[name])
            assert_same(value, old if is_old else new)
        assert int(newest.name) >= 2
        save(folder, snapshot(9), keep=1)
        assert names(folder) == ["000009"]
        if not killed:
            break
    assert not killed
    assert step > 20


SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from common.checkpoint import Snapshot, save
from common.config import AdapterConfig

def save_for_ever(folder, saved):
    for count in range(100_000):
        update = 1 + count // 2  # every second save replaces one
        arrays = {f"w{i}": np.full((40, 40), count, np.float32) for i in range(8)}
        value = Snapshot(update, arrays, arrays, {"step": np.asarray(count)}, {"count": count})
        save(folder, value, adapter=AdapterConfig(), keep=2)
        os.write(saved, b".")

moments = random.Random(12401)
for index in range(30):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        save_for_ever(Path(sys.argv[1]) / str(index), writer)
    os.close(writer)
    awaited = sum(len(os.read(reader, 1)) for _ in range(moments.randrange(5)))
    time.sleep(moments.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(awaited + len(os.read(reader, 100_000)) - 1)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork and no SIGKILL")
def test_killed_at_random_moments_every_checkpoint_that_is_there_loads(tmp_path):
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded = halfway = 0
    for index, saved in enumerate(map(int, output.split())):
        folder = tmp_path / str(index)
        newest = checkpoint.latest(folder)
        if saved >= 0:  # what was reported as saved is not lost
            assert newest is not None
            assert checkpoint.load(newest).state["count"] >= saved
            assert int(newest.name) >= 1 + saved // 2
        for path in {*folder.glob("[0-9]*"), *([newest] if newest else [])}:
            value = checkpoint.load(path)
            count = value.state["count"]
            assert value.update == int(path.name) == 1 + count // 2
            assert {float(array.mean()) for array in value.parameters.values()} == {float(count)}
            loaded += 1
        halfway += any(folder.glob(".*"))
        save(folder, snapshot(900_000), keep=1)
        assert names(folder) == ["900000"]
    assert loaded >= 20
    assert halfway >= 10  # the kills did hit the middle of saves

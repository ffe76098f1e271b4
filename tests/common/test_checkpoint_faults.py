"""A save that is cut short, anywhere, by anything, leaves earlier checkpoints as they were."""

import errno
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from common.runs import checkpoint, files
from tests.common.synthetic_checkpoint import (
    EVERY_FILE,
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
from common.runs import checkpoint, files
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
from common.runs.checkpoint import Snapshot, save
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

"""Logs and pictures of a run: whole lines come back, torn ones never do any harm."""

import errno
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from common import config as configuration
from common.runs import line_log, lock
from common.runs.directory import RunDirectory, RunError

CONFIG = configuration.load("emoji")


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {"backend": "cpu"})


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- logs ----------------------------------------------------------------------------------------


def test_only_one_process_at_a_time_holds_a_run(run):
    again = RunDirectory.open(run.path)
    with run.locked(), pytest.raises(RunError, match=r"another process is training in .*; stop it"):
        again.locked().__enter__()
    with again.locked():
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_without_locks_does_not_stop_a_run(run, monkeypatch, number):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with run.locked():
        run.append_metrics({"update": 1})
    with pytest.raises(OSError, match="the body's own"), run.locked():
        raise OSError("the body's own")


def test_metrics_and_evaluations_come_back(run):
    assert run.metrics() == []
    assert run.evaluations() == []
    run.append_metrics({"update": 1, "reward/mean": 0.5})
    run.append_metrics({"update": np.int64(2), "reward/mean": np.float32(0.25)})
    run.append_evaluation({"update": 0, "prompts": ["größer", "b"], "by": np.array([1.0, 2.0])})
    assert RunDirectory.open(run.path).metrics() == [
        {"update": 1, "reward/mean": 0.5},
        {"update": 2, "reward/mean": 0.25},
    ]
    assert run.evaluations() == [{"update": 0, "prompts": ["größer", "b"], "by": [1.0, 2.0]}]


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(run):
    values = [math.nan, math.inf, -math.inf, np.float32("nan"), 1.0]
    run.append_metrics({"update": 1, "x": math.nan, "list": values, "table": {"y": -math.inf}})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    line = json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)
    nothing = [None, None, None, None, 1.0]
    assert line == {"update": 1, "x": None, "list": nothing, "table": {"y": None}}
    (record,) = run.metrics()
    assert math.isnan(record["x"])
    assert math.isnan(record["table"]["y"])
    np.testing.assert_array_equal(record["list"], [math.nan] * 4 + [1.0])


@given(record=st.dictionaries(st.text(), st.floats() | st.integers() | st.booleans() | st.text()))
def test_any_record_is_one_line_of_strict_json(record):
    line = line_log.encode({**record, "update": 1})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line).keys() == record.keys() | {"update"}


def test_a_record_needs_a_whole_update(run):
    for update in ({}, {"update": 1.0}, {"update": None}, {"update": "1"}):
        with pytest.raises(ValueError, match="needs 'update', a whole number"):
            run.append_metrics({**update, "x": 1.0})
    assert run.metrics() == []


@pytest.mark.parametrize("cut", range(1, 26))
def test_a_torn_last_line_is_dropped_and_never_glued(run, cut):
    file = run.path / "metrics.jsonl"
    run.append_metrics({"update": 1, "x": 0.5})
    first = file.read_bytes()
    run.append_metrics({"update": 2, "x": 0.75})
    whole = file.read_bytes()
    last = len(whole) - len(first)
    assert last == 25
    file.write_bytes(whole[: len(whole) - cut])
    kept = [1, 2] if cut == 1 else [1]  # without only its newline, the line still says all
    assert [record["update"] for record in run.metrics()] == kept
    run.append_metrics({"update": 3, "x": 1.0})
    assert [record["update"] for record in run.metrics()] == [*kept, 3]
    assert len(file.read_bytes().splitlines()) == len(kept) + 1


def test_only_the_first_line_and_torn(run):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1, "x\xc3')
    assert run.metrics() == []
    run.append_metrics({"update": 1})
    assert run.metrics() == [{"update": 1}]


@pytest.mark.parametrize(
    "damage", [b'{"update": 2, "x"', b"", b"[]", b"{}", b'{"update": "2"}', b"\xff\xfe"]
)
def test_a_damaged_middle_line_is_reported_with_its_number(run, damage):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1}\n' + damage + b'\n{"update": 3}\n')
    line = f"{file} line 2 is damaged: not a record with an update"
    for action in (run.metrics, lambda: run.rewind(1)):
        with pytest.raises(RunError) as caught:
            action()
        assert str(caught.value) == line


def test_rewind_drops_what_came_after_and_keeps_the_bytes_before(run):
    for update in (1, 2, 3, 4):
        run.append_metrics({"update": update, "x": 1 / update})
    for update in (0, 2, 4):
        run.append_evaluation({"update": update})
    before = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run.path / ".metrics.jsonl.tmp-0badcafe").write_bytes(b"of a killed rewind")
    run.rewind(2)
    assert (run.path / "metrics.jsonl").read_bytes() == b"".join(before[:2])
    assert [record["update"] for record in run.evaluations()] == [0, 2]
    assert ".metrics.jsonl.tmp-0badcafe" not in names(run.path)
    run.rewind(0)
    assert run.metrics() == []
    assert [record["update"] for record in run.evaluations()] == [0]


def test_rewind_cuts_a_torn_line_and_ends_the_last_one(run):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1}\n{"upd')
    run.rewind(5)
    assert file.read_bytes() == b'{"update": 1}\n'
    file.write_bytes(b'{"update": 1}\n{"update": 2}')
    run.rewind(5)
    assert file.read_bytes() == b'{"update": 1}\n{"update": 2}\n'


def test_rewind_of_a_run_without_logs(run):
    run.rewind(3)
    assert names(run.path) == ["config.toml", "environment.json"]


def test_a_full_disk_leaves_the_log_as_it_was(run, monkeypatch):
    run.append_metrics({"update": 1})
    before = (run.path / "metrics.jsonl").read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    line = f"cannot write {run.path / 'metrics.jsonl'}: no space left on the device"
    for action in (lambda: run.append_metrics({"update": 2}), lambda: run.rewind(0)):
        with pytest.raises(OSError, match=r"no space left") as caught:
            action()
        assert str(caught.value) == line
        assert (run.path / "metrics.jsonl").read_bytes() == before
    assert names(run.path) == ["config.toml", "environment.json", "metrics.jsonl"]


# --- pictures ------------------------------------------------------------------------------------


def test_a_picture_comes_back(run):
    image = np.random.default_rng(0).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    file = run.save_picture("000020", image)
    assert file == run.path / "samples" / "000020.png"
    np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
    run.save_picture("000020", 255 - image)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), 255 - image)
    assert names(run.path / "samples") == ["000020.png"]


def test_a_picture_has_a_plain_name_and_three_channels(run):
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    for name in ("", "../escape", ".hidden", "a/b", "a b"):
        with pytest.raises(ValueError, match="picture name"):
            run.save_picture(name, image)
    for wrong in (image[..., 0], image.astype(np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"not uint8 \[H, W, 3\]"):
            run.save_picture("a", wrong)

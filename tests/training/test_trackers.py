"""A run and its resume in the libraries of trackers themselves, offline, read back from disk."""

import importlib.util
import sqlite3
import struct
import time

import pytest
from click.testing import CliRunner

from common.cli import drift
from tests.cli.conftest import options

pytestmark = pytest.mark.slow


def tracked(tmp_path, library):
    """A run of two updates, then of a third one, with this tracker; returns its folder."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    out = tmp_path / "run"
    track = ["--set", f'track.to=["{library}"]', "--set", "track.offline=true"]
    first = ["run", "--backend", "cpu", *options(), *track, "--out", str(out)]
    again = ["run", "--resume", "--out", str(out), "--updates", "3"]
    for words in (first, again):
        result = CliRunner().invoke(drift, words)
        assert result.exit_code == 0, result.output
        assert "the run goes on without it" not in result.output
    return out


def wandb_records(file):
    """The records of a file of W&B: blocks of 32 KB, each a sequence of parts with a header."""
    from wandb.proto import wandb_internal_pb2

    data, whole, at = file.read_bytes(), b"", 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):  # it is being written
            return
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def whole_log(file):
    """The records of a file, once W&B's own process has written the last one."""
    until = time.monotonic() + 60
    while not (records := list(wandb_records(file))) or not records[-1].HasField("exit"):
        assert time.monotonic() < until, "the log has no end"
        time.sleep(0.1)
    return records


def test_wandb_has_both_starts_in_one_run(tmp_path):
    out = tracked(tmp_path, "wandb")
    files = sorted((out / "track" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    records = [whole_log(file) for file in files]
    ids = {record.run.run_id for each in records for record in each if record.HasField("run")}
    assert len(ids) == 1
    rows = [
        {"/".join(part.nested_key or [part.key]): part.value_json for part in record.history.item}
        for each in records
        for record in each
        if record.HasField("history")
    ]
    assert [row["update"] for row in rows if "reward/mean" in row] == ["1", "2", "3"]
    assert any("evaluation/pictures/path" in row for row in rows)
    assert any("result/report/path" in row for row in rows)
    summary = {
        "/".join(part.nested_key or [part.key])
        for record in records[-1]
        if record.HasField("summary")
        for part in record.summary.update
    }
    assert any(key.startswith("result/") for key in summary)


def test_trackio_has_both_starts_in_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    out = tracked(tmp_path, "trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    assert rows[0][0].startswith(f"{out.name}-")
    assert sorted(step for _, step, metrics in rows if "reward/mean" in str(metrics)) == [1, 2, 3]


def test_swanlab_writes_both_starts_under_one_id(tmp_path):
    out = tracked(tmp_path, "swanlab")
    starts = sorted((out / "track" / "swanlab").glob("run-*"))
    assert len(starts) == 2
    assert len({start.name.rpartition("-")[2] for start in starts}) == 1
    assert list(starts[0].glob("media/image/*.png"))
    assert list(starts[1].glob("media/html/*.html"))

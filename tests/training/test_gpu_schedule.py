"""A benchmark's rows end in every way, and every row that ended is on disk.

Rows of `gpu_rows.py` run under the real schedule; what a missing package, too little memory or too
little time cost is said in the document; a killed benchmark leaves no process behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.gpu_bench import __main__ as command
from scripts.gpu_bench.context import Context, spread, to_json
from scripts.gpu_bench.rows import ROWS, Row, chosen
from scripts.gpu_bench.schedule import Document, Plan, lacking, run

PACKAGE = "tests.training"


def row(work, seconds=30.0, **settings):
    return Row(1, work, work, f"gpu_rows:{work}", (seconds,) * 3, package=PACKAGE, **settings)


def perform(tmp_path, *rows, mode="tiny", seconds=600.0, memory=None, at_once=2):
    folder = tmp_path / "rows"
    folder.mkdir(exist_ok=True)
    document = Document(tmp_path / "out.json")
    lines = []
    run(Plan(rows, mode, "cpu", seconds, at_once, memory, folder), document, lines.append)
    assert json.loads((tmp_path / "out.json").read_bytes()) == json.loads(to_json(document.content))
    return document.content["rows"], lines


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


def gone(pid):
    end = time.monotonic() + 300
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def test_a_row_that_fails_says_why_and_the_next_goes_on(tmp_path):
    rows, lines = perform(tmp_path, row("raises"), row("crashes"), row("skips"), row("good"))
    assert rows["raises"]["reason"] == "ValueError: two lines"
    assert rows["raises"]["figures"] == {"so far": 1}
    assert rows["crashes"]["reason"] == "its process ended with 3; the last words"
    assert rows["skips"] | {"seconds": 0} == {
        **{"number": 1, "title": "skips", "seconds": 0},
        **{"status": "skipped", "reason": "needs a moon"},
    }
    assert rows["good"]["status"] == "done"
    assert rows["good"]["figures"]["mode"] == "tiny"
    assert rows["good"]["figures"]["pid"] != os.getpid()
    assert [line.split()[2] for line in lines if "done" in line] == ["done"]


@pytest.mark.slow
def test_a_row_that_hangs_is_ended_with_all_it_began(tmp_path):
    rows, _ = perform(tmp_path, row("hangs", seconds=0.0), row("good"))
    assert rows["hangs"]["status"] == "failed"
    assert "its limit" in rows["hangs"]["reason"]
    assert gone(rows["hangs"]["figures"]["child"])
    assert rows["good"]["status"] == "done"


def test_what_does_not_fit_is_not_begun(tmp_path):
    large = row("good", gigabytes=60.0, modules=("no_such_module",))
    rows, _ = perform(tmp_path, large, mode="full")
    assert rows["good"]["reason"] == "needs no_such_module, not installed here"
    rows, _ = perform(tmp_path, row("good", gigabytes=60.0), mode="full", memory=24_000_000_000)
    assert rows["good"]["reason"] == "needs about 60 GB; the card has 24"
    rows, _ = perform(tmp_path, row("good", seconds=50.0), seconds=30.0)
    assert rows["good"]["reason"].startswith("takes about 50 s; 2")
    assert lacking([large, row("raises")]) == {"no_such_module": ["good"]}


def test_a_benchmark_that_is_killed_leaves_what_it_had_and_no_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.training import test_gpu_schedule as t;"
        f"t.perform(Path({str(tmp_path)!r}), t.row('good'), t.row('hangs'), at_once=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    kept = Context("hangs", "tiny", "cpu", tmp_path / "rows")
    end = time.monotonic() + 300
    while not kept.kept() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    child = kept.kept()["child"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "out.json").read_bytes())["rows"]["good"]["status"] == "done"
    assert gone(child)


def test_rows_are_chosen_by_name_and_by_number():
    assert chosen(None) == list(ROWS)
    assert [one.name for one in chosen("resume,1")] == ["rates", "resume"]
    assert {one.number for one in chosen("2")} == {2}
    for wrong in ("sd4", "", "0"):
        with pytest.raises(ValueError, match="valid: 1 to 10, rates"):
            chosen(wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "sd4"], "--rows: no row 'sd4'; valid: 1 to 10, rates"),
        (["--minutes", "0"], "--minutes 0.0: valid: above 0"),
        (["--minutes", "nan"], "--minutes nan: valid: above 0"),
        ([], "no CUDA device (PyTorch"),
    ],
)
def test_a_wrong_request_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command.main([*words, "--out", str(tmp_path / "out.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "out.json").exists()


def test_spread_and_strict_json():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "repeats": 3}
    assert json.loads(to_json({"a": float("inf"), "b": (1.5, None)})) == {
        "a": None,
        "b": [1.5, None],
    }

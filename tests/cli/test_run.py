"""`drift run`: what it shows, where it writes, and how a run goes on."""

import json
import os
import re
import signal
import tomllib
from pathlib import Path

import pytest

from common import console
from common.runs.directory import RunDirectory


def test_a_run_shows_its_plan_each_update_and_base_against_tuned(first):
    out, result = first
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    start = next(i for i, line in enumerate(lines) if line.startswith("evaluated base model"))
    plan = dict(re.split(r"  +", line, maxsplit=1) for line in lines[:start])
    assert plan["backend"] == "cpu"
    assert plan["images per update"] == "8"
    assert {
        "device",
        "optimizer steps per update",
        "forwards per image",
        "trained parameters",
    } <= set(plan)
    updates = [line for line in lines if line.startswith("update ")]
    assert [line.split()[1] for line in updates[-2:]] == ["1/2", "2/2"]
    run = RunDirectory.open(out)
    base, tuned = run.evaluations()
    row = next(line for line in lines if line.startswith("diversity "))
    share = f"{tuned['diversity'] / base['diversity']:.0%} of base"
    numbers = [f"{base['diversity']:.3f}", f"{tuned['diversity']:.3f}", share]
    assert re.split(r"  +", row)[1:] == numbers
    row = next(line for line in lines if line.startswith("held-out alignment "))
    change = f"{tuned['alignment_heldout'] - base['alignment_heldout']:+.2f}"
    assert row.split()[-1] == change
    assert lines[-2:] == [
        f"report      {run.report}",
        f"checkpoint  {run.checkpoints / '000002'}",
    ]
    assert run.report.is_file()


def test_a_report_at_any_time(drift, refused, finished):
    run = RunDirectory.open(finished)
    (start,) = run.starts()
    assert start["ended"] == "finished"
    assert start["seconds"] > 0
    run.report.unlink()
    (run.path / "metrics.jsonl").unlink()  # as of a run that has just begun
    result = drift("report", finished)
    assert (result.exit_code, result.stdout) == (0, f"{run.report}\n")
    page = run.report.read_text()
    assert "Stopped at update 0 of 2" in page
    assert "drift run emoji --backend cpu --set " in page
    assert "no run directory nowhere" in refused(2, "report", "nowhere")


@pytest.mark.usefixtures("no_report")
def test_the_run_directory_is_free_and_holds_the_resolved_backend(drift, small):
    for taken in ("emoji-cpu-seed7", "emoji-cpu-seed7-2"):
        Path("runs", taken).mkdir(parents=True)
    assert drift("run", *small(run__updates="1", run__seed="7")).exit_code == 0
    run = Path("runs/emoji-cpu-seed7-3")
    assert tomllib.loads((run / "config.toml").read_text())["run"]["backend"] == "cpu"
    (start,) = json.loads((run / "environment.json").read_text())["starts"]
    assert (start["update"], start["backend"]) == (0, "cpu")
    assert start["library"].startswith("torch ")


@pytest.mark.usefixtures("no_report")
def test_a_run_resumes_with_what_is_stored_and_with_more_updates(drift, small, finished):
    leftover = finished / "samples" / ".000000.png.tmp-0badcafe"  # of a start that was killed
    leftover.write_bytes(b"half")
    result = drift("run", "--resume", "--out", finished, "--set", "run.updates=3")
    assert result.exit_code == 0, result.output
    assert not leftover.exists()
    run = RunDirectory.open(finished)
    assert [record["update"] for record in run.metrics()] == [1, 2, 3]
    assert run.config.run.updates == 3
    assert [(start["update"], start["backend"]) for start in run.starts()] == [
        (0, "cpu"),
        (2, "cpu"),
    ]
    again = drift("run", "--resume", "--out", finished, "emoji", *small(run__updates="3"))
    assert again.exit_code == 0, again.output
    assert len(run.metrics()) == 3


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_finishes_the_update_saves_and_says_how_to_go_on(drift, small, monkeypatch):
    updated = console.RunDisplay.updated

    def interrupt(self, record):
        updated(self, record)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(console.RunDisplay, "updated", interrupt)
        result = drift("run", *small(run__updates="9", checkpoint__every="9"), "--out", "a run")
    assert result.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    stopped, how = result.stdout.splitlines()[-2:]
    assert stopped == "stopped after update 1 of 9; go on with"
    assert how == "  drift run --resume --out 'a run'"
    assert drift("run", "--resume", "--out", "a run", "--set", "run.updates=2").exit_code == 0
    assert [record["update"] for record in RunDirectory.open(Path("a run")).metrics()] == [1, 2]


@pytest.mark.parametrize("missing", ["reward/mean", "diversity/group"])
def test_a_line_shows_what_there_is(missing, capsys):
    import threading

    record = {
        "update": 1,
        "seconds": 2.0,
        "images": 8.0,
        "reward/mean": 5.25,
        "diversity/group": 0.5,
    }
    del record[missing]
    display = console.RunDisplay(4, threading.Event(), {})
    display.updated(record)
    line = capsys.readouterr().out
    assert line.startswith("update 1/4  ")
    assert "8 images  2.0 s an update  0:06 left" in line
    assert ("reward 5.25" in line) == (missing != "reward/mean")


def test_the_board_of_a_terminal_shows_progress_evaluation_and_a_stop(monkeypatch):
    import io
    import threading

    from rich.console import Console

    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(console, "console", terminal)
    stop = threading.Event()
    with console.RunDisplay(4, stop, {"backend": "cpu"}) as display:
        display.started({"updates": 4})
        assert display.live
        display.evaluated({"update": 0, "reward": 5.0, "diversity": 0.4})
        display.updated({"update": 1, "seconds": 3.0, "images": 8.0, "reward/mean": 5.5})
        display.evaluated({"update": 1, "reward": 5.5, "diversity": 0.3})
        stop.set()
        terminal.print(display)
    shown = screen.getvalue()
    assert "1/4 updates" in shown
    assert "0:09 left" in shown
    assert "evaluated after 1: reward 5.50  diversity 0.300  (75% of base)" in shown
    assert display.STOPPING in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05")]
)
def test_clock(seconds, text):
    assert console.clock(seconds) == text


def test_the_start_and_a_dry_run_print_the_terms_and_what_they_replace(drift, small, first):
    lines = [" ".join(line.split()) for line in first[1].stdout.splitlines()]
    assert "reward terms embedded = 10" in lines
    changes = {"reward__terms__jpeg_compressibility": "0.5", "reward__terms__ocr": "1"}
    words = ["--dry-run", "--set", "reward.combine=minimum"]
    output = drift("run", "emoji-two-rewards", *small(**changes), *words).output
    line = next(line for line in output.splitlines() if line.startswith("reward terms "))
    assert line.partition("  ")[2].strip() == (
        "jpeg_compressibility = 0.5, ocr = 1 (combine = minimum), "
        "in place of the recipe's embedded = 1"
    )

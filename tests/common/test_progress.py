"""Progress within an update and an evaluation: on a terminal, and in few lines of a log."""

import io
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from common import console, progress
from common.backends import Alone
from common.evaluation.records import Variant
from common.progress import Part
from common.workflows import evaluate, part_progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(clock, *, seconds_each, total):
    part, lines = Part("sampling"), 0
    for done in range(1, total + 1):
        clock[0] += seconds_each
        lines += part.advance(done, total)
    return lines


@pytest.mark.parametrize(
    ("seconds_each", "total", "lines"),
    [
        (0.01, 1000, 0),  # 10 s: the line of the update is soon there
        (1.0, 100, 3),  # a line every 30 s, after a tenth of its own
        (100.0, 1000, 9),  # a day
        (300.0, 3, 2),  # large batches
        (300.0, 1, 0),
    ],
)
def test_a_log_gets_few_lines_about_a_part(clock, seconds_each, total, lines):
    assert lines_of(clock, seconds_each=seconds_each, total=total) == lines


def test_the_time_left_is_that_of_the_speed_so_far(clock):
    part = Part("sampling")
    part.advance(0, 96)
    assert part.seconds_left() is None
    clock[0] = 4.0
    part.advance(24, 96)
    assert part.seconds_left() == 12.0
    assert console.part_words(part, "images") == "sampling 24/96 images  0:12 left"


def test_a_log_shows_the_progress_within_an_update_and_an_evaluation(clock, capsys):
    display = console.RunDisplay(4, threading.Event(), {})
    display.started({"update": 2, "updates": 4})
    capsys.readouterr()
    for stage, total in (("evaluating", 128), ("sampling", 96), ("training", 1000)):
        for done in range(0, total + 1, total // 4):
            clock[0] += 31.0 * (done > 0)
            display.advanced(stage, done, total)
    assert capsys.readouterr().out.splitlines() == [
        "evaluating 32/128 images  1:33 left",
        "evaluating 64/128 images  1:02 left",
        "evaluating 96/128 images  0:31 left",
        "update 3/4  sampling 24/96 images  1:33 left",
        "update 3/4  sampling 48/96 images  1:02 left",
        "update 3/4  sampling 72/96 images  0:31 left",
        "update 3/4  training 250/1,000 transitions  1:33 left",
        "update 3/4  training 500/1,000 transitions  1:02 left",
        "update 3/4  training 750/1,000 transitions  0:31 left",
    ]


def test_a_terminal_shows_the_part_that_is_under_way(clock, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(console, "console", terminal)
    with console.RunDisplay(4, threading.Event(), {}) as display:
        display.started({"updates": 4})
        display.advanced("sampling", 0, 96)
        clock[0] = 4.0
        display.advanced("sampling", 24, 96)
        terminal.print(display)
        assert "sampling 24/96 images  0:12 left" in screen.getvalue()
        display.advanced("scoring", 0, 96)
        terminal.print(display)
        assert "scoring 96 images" in screen.getvalue()
        display.updated({"update": 1, "seconds": 3.0, "images": 96.0})
        before = len(screen.getvalue())
        terminal.print(display)
        assert "scoring" not in screen.getvalue()[before:]


def measured(clock, monkeypatch, *, terminal):
    """What an evaluation of four records shows while the second one is made."""
    screen = io.StringIO()
    shown = Console(file=screen, force_terminal=terminal, width=80, highlight=False)
    monkeypatch.setattr(console, "console", shown)
    monkeypatch.setattr(part_progress, "console", shown)
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: clock[0])
    run = SimpleNamespace(path=Path("a-run"))
    backend = SimpleNamespace(world=Alone())
    planned = SimpleNamespace(
        run=run, protocols=["train", "test"], variants=[0, 1], backend=backend
    )
    record = SimpleNamespace(
        variant=Variant(0),
        protocol=SimpleNamespace(split="train"),
        alignment="alignment_heldout",
        mean=lambda name: 0.5,
    )
    with evaluate._Progress(planned, quiet=False) as display:
        for done in (0, 50, 100):
            clock[0] = float(done)
            display.sampled("base model, train", done, 100)
        display.measured(record, True)
        display.sampled("base model, test", 0, 100)
        clock[0] = 150.0
        display.sampled("base model, test", 50, 100)
        display._bars.refresh()
    return screen.getvalue()


def test_a_log_of_an_evaluation_counts_its_images(clock, monkeypatch):
    assert measured(clock, monkeypatch, terminal=False).splitlines() == [
        "record 1 of 4  base model, train 50/100 images  0:50 left",
        "measured base model on train prompts: held-out 0.50  diversity 0.500  (100.0 s)",
        "record 2 of 4  base model, test 50/100 images  0:50 left",
    ]


def test_a_terminal_shows_the_images_of_an_evaluation_and_the_time_left(clock, monkeypatch):
    shown = measured(clock, monkeypatch, terminal=True)
    assert "measuring a-run" in shown
    assert "1/4 records  4:10 left" in shown
    assert "50/100 images  0:50 left" in shown


def test_of_several_processes_the_work_of_the_first_is_counted(capsys):
    display = console.RunDisplay(4, threading.Event(), {}, processes=2)
    display.advanced("sampling", 24, 48)
    assert display._part_words(display._part).startswith("sampling 24/48 images of process 0  ")
    display.advanced("scoring", 0, 96)
    assert display._part_words(display._part) == "scoring 96 images"

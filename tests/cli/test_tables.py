"""Tables on a terminal: no name and no word is cut off, however narrow the terminal is."""

import io
import json
import time

import pytest
from rich.console import Console

from common import console
from common.sweep.board import Board
from common.sweep.jobs import Step, Task

WIDTHS = (20, 40, 60, 80, 100, 200)
LONG = "sd35m-pickscore-grpo-of-a-very-long-name-that-goes-on-and-on-seed0"


@pytest.fixture
def terminal(monkeypatch):
    """Makes the output a terminal of that many columns; gives what is written to it."""

    def make(width):
        screen = io.StringIO()
        shown = Console(
            file=screen, force_terminal=True, width=width, highlight=False, color_system=None
        )
        monkeypatch.setattr(console, "console", shown)
        return screen

    return make


@pytest.mark.parametrize("words", ["recipes", "prompts", "rewards", "rewards --features", "config"])
def test_lists_show_whole_names_at_any_width_and_have_json(drift, terminal, words):
    (rows,) = json.loads(drift(*words.split(), "--json").output).values()
    assert len(rows) >= 2
    for width in (20, 80, 200):
        screen = terminal(width)
        assert drift(*words.split()).exit_code == 0
        text = screen.getvalue()
        assert "…" not in text
        lines = [line.split()[0] for line in text.splitlines() if line.strip()]
        for row in rows:
            assert row.get("name", row.get("key")) in lines
            for word in row.get("description", row.get("meaning")).split():
                assert word in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_lost_in_a_table_or_in_pairs(terminal, width):
    rows = [
        {"name": LONG, "count": 1234, "about": "much faster than others", "more": ""},
        {"name": "b", "count": 5, "about": "[bold] and 画像生成器", "more": "x"},
    ]
    screen = terminal(width)
    console.table(rows, right=("count",))
    console.pairs({"trained_parameters": 7, "run": "somewhere/in a folder"})
    text = screen.getvalue()
    assert {LONG, "1,234", "画像生成器", "[bold]"} <= {
        word.rstrip(";") for line in text.splitlines() for word in line.split()
    }
    assert "trained parameters" in text
    assert "run somewhere/in a folder" in " ".join(text.split())
    for line in text.splitlines():
        assert len(line) <= width or line.split() == [LONG]


def test_a_live_sweep_shows_whole_names(terminal, tmp_path):
    task = Task(LONG, (Step("started", ("run",), tmp_path / "log"),))
    board = Board([task], {LONG: 3}, tmp_path)
    board._running[LONG] = (task.steps[0], time.monotonic())
    for width in WIDTHS:
        screen = terminal(width)
        console.console.print(board)
        first = [line[: min(len(LONG), width)].strip() for line in screen.getvalue().splitlines()]
        assert LONG in "".join(first)

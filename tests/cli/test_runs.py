"""`drift runs`: a row for each run, whatever is in its folder."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from common.runs.directory import RunDirectory
from tests.common.synthetic_run import make_run

OVERRIDES = ("run.backend=cpu",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs in every state: one finished, one stopped and one failed. Read only."""
    top = tmp_path_factory.mktemp("runs")
    make_run(top / "whole", updates=3, done=3, evaluated=(0, 3), overrides=OVERRIDES)
    stopped = {"updates": 9, "done": 2, "evaluated": (0,)}
    make_run(top / "study" / "half", **stopped, overrides=(*OVERRIDES, "run.seed=7"))
    broken = make_run(top / "broken", updates=9, done=1, evaluated=(), overrides=OVERRIDES)
    broken.end_start("failed: the disk is full", 2.0)
    began = {"whole": "2026-03-01", "study/half": "2026-02-01", "broken": "2026-04-01"}
    for name, day in began.items():
        file = top / name / "environment.json"
        facts = json.loads(file.read_text())
        facts["starts"][0]["began"] = f"{day}T00:00:00+00:00"
        file.write_text(json.dumps(facts))
    return top


@pytest.fixture
def runs(made, tmp_path):
    """A copy of those runs, in the folder of the command."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def rows(drift, *words):
    result = drift("runs", "--json", *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["runs"]


@pytest.mark.usefixtures("runs")
def test_the_table_has_a_row_for_each_run_the_newest_first(drift):
    heading, *lines = drift("runs").stdout.splitlines()
    assert re.split(r"  +", heading) == [
        *("run", "recipe", "backend", "updates", "reward", "alignment", "diversity"),
        *("state", "age"),
    ]
    cells = [re.split(r"  +", line.strip()) for line in lines]
    assert [row[0] for row in cells] == ["runs/broken", "runs/whole", "runs/study/half"]
    assert [row[-2] for row in cells] == ["failed", "finished", "stopped"]
    assert cells[1][1:7] == ["emoji", "cpu", "3/3", "5.97", "6.23", "0.372"]
    assert cells[0][3:7] == ["1/9", "-", "-", "-"]
    assert all(row[-1].endswith(" d") for row in cells)


@pytest.mark.parametrize(
    ("sort", "first"),
    [("run", "broken"), ("updates", "whole"), ("reward", "whole"), ("diversity", "study/half")],
)
@pytest.mark.usefixtures("runs")
def test_sorting_puts_the_highest_first_and_what_is_missing_last(drift, sort, first):
    listed = rows(drift, "--sort", sort)
    assert listed[0]["run"] == f"runs/{first}"
    if sort in ("reward", "diversity"):
        assert listed[-1]["run"] == "runs/broken"


def test_json_has_the_numbers_and_a_run_named_twice_is_there_once(drift, runs):
    whole, *rest = rows(drift, runs / "whole", runs / "whole", runs / "study")
    assert [row["seed"] for row in rest] == [7]
    last = RunDirectory.open(runs / "whole").evaluations()[-1]
    assert (whole["done"], whole["updates"], whole["evaluated"]) == (3, 3, 3)
    assert whole["alignment"] == last["alignment_heldout"]
    assert whole["error"] == ""


def test_a_run_that_a_process_trains_in_is_running(drift, runs):
    with RunDirectory.open(runs / "broken").locked():
        assert {row["run"]: row["state"] for row in rows(drift)}["runs/broken"] == "running"


def _pipe(folder):
    (folder / "config.toml").unlink()
    os.mkfifo(folder / "config.toml")


def _folder(folder):
    (folder / "config.toml").unlink()
    (folder / "config.toml").mkdir()


def _device(folder):
    (folder / "environment.json").unlink()
    (folder / "environment.json").symlink_to("/dev/zero")


HARM = {
    "a pipe": _pipe,
    "a device": _device,
    "no TOML": lambda folder: (folder / "config.toml").write_text("[run"),
    "deep": lambda folder: (folder / "environment.json").write_text("[" * 100_000),
    "no table": lambda folder: (folder / "config.toml").write_bytes(b""),
    "damaged": lambda folder: (folder / "evaluations.jsonl").write_text("{}\n{}\n"),
    "a folder": lambda folder: (
        (folder / "config.toml").unlink() or (folder / "config.toml").mkdir()
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_run_has_a_row_and_stops_nothing(drift, runs, harm):
    HARM[harm](runs / "whole")
    by_run = {row["run"]: row for row in rows(drift)}
    assert by_run["runs/whole"]["state"] == "cannot be read"
    assert by_run["runs/whole"]["error"]
    assert by_run["runs/study/half"]["state"] == "stopped"
    result = drift("runs")
    assert "runs/whole" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_impossible_values_are_no_numbers(drift, runs):
    row = {"update": 3, "reward": "high", "alignment_heldout": None, "diversity": True}
    (runs / "whole" / "evaluations.jsonl").write_text(json.dumps(row) + "\n")
    (runs / "whole" / "metrics.jsonl").write_text('{"update": [1]}\n')
    facts = {"starts": [{"began": "\x1b[31mnever", "ended": ["x"]}]}
    (runs / "whole" / "environment.json").write_text(json.dumps(facts))
    (whole,) = rows(drift, runs / "whole")
    assert [whole[key] for key in ("reward", "alignment", "diversity", "done")] == [None] * 3 + [0]
    assert whole["age"] < 1e5  # by its file
    assert drift("runs").exit_code == 0


def test_links_are_followed_to_a_run_and_not_in_circles(drift, runs, tmp_path):
    (runs / "study" / "round").symlink_to(runs)
    shutil.move(runs / "whole", tmp_path / "elsewhere")
    (runs / "far").symlink_to(tmp_path / "elsewhere")
    assert sorted(row["run"] for row in rows(drift)) == [
        *("runs/broken", "runs/far", "runs/study/half")
    ]


def test_wrong_requests_are_one_line(drift, refused, tmp_path):
    assert drift("runs").stdout == "no runs in runs: `drift run` starts one\n"
    assert "no folder runs: it is not there" in refused(2, "runs", "runs")
    (tmp_path / "runs").mkdir()
    assert drift("runs").stdout == "no runs in runs: `drift run` starts one\n"
    assert json.loads(drift("runs", "--json").stdout) == {"runs": []}
    assert drift("runs", "--sort", "size").exit_code == 2

"""`drift compare`: what it prints and writes, and one line for every request it cannot fulfil."""

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from common.comparison.summary import from_json
from common.evaluation.records import FILE

STUDY = runpy.run_path(str(Path(__file__).parents[1] / "common" / "synthetic_study.py"))
make_run, better_curve = STUDY["make_run"], STUDY["better_curve"]
QUICK = ("--replicas", 100)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods with two seeds each. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        make_run(folder / f"grpo-{seed}", seed=seed)
        make_run(folder / f"drift-{seed}", better_curve, recipe="emoji", seed=seed)
    return folder


def test_it_prints_tables_and_writes_four_files(drift, runs, tmp_path):
    result = drift("compare", runs, *QUICK, "--out", "out/here")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    summary = from_json((tmp_path / "out/here/compare.json").read_bytes())
    gain = summary.gain("emoji", "diversity", 0.75)
    row = next(line for line in lines if line.startswith("emoji"))
    assert f"{gain.estimate:+.0%} ({gain.low:+.0%} to {gain.high:+.0%})" in row
    assert "not reached (stays more diverse)" in result.stdout
    assert "one seed" not in result.stdout
    names = ["compare.html", "front.png", "front.svg", "compare.json"]
    assert lines[-4:] == [f"out/here/{name}" for name in names]
    assert sorted(path.name for path in (tmp_path / "out/here").iterdir()) == sorted(names)
    with Image.open(tmp_path / "out/here/front.png") as image:
        assert image.size[0] > 1200


def test_json_is_what_the_file_holds(drift, runs, tmp_path):
    words = ("compare", runs / "grpo-0", runs / "grpo-1", runs / "drift-0", runs / "drift-1")
    result = drift(*words, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout == (tmp_path / "comparison/compare.json").read_text()
    assert json.loads(result.stdout)["baseline"] == "emoji-grpo"


def test_options_say_what_is_compared_and_where(drift, runs):
    options = {
        "--baseline": "emoji", "--alignment": "reward", "--diversity": "vendi",
        "--level": "0.3,0.7", "--diversity-level": "0.9", "--curve": "path",
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    result = drift("compare", runs, *QUICK, *words, "--json")
    assert result.exit_code == 0, result.output
    summary = from_json(result.stdout)
    assert (summary.baseline, summary.reading) == ("emoji", "path")
    assert (summary.alignment, summary.diversity) == ("reward", "vendi")
    assert {gain.share for gain in summary.gains} == {None, 0.3, 0.7, 0.9}
    assert summary.gain("emoji-grpo", "diversity", 0.3).estimate < 0


def test_later_checkpoints_can_be_left_out(drift, runs):
    result = drift("compare", runs, *QUICK, "--until", "25", "--json")
    assert result.exit_code == 0, result.output
    summary = from_json(result.stdout)
    assert {point.update for m in summary.methods for point in m.points} == {10, 20}


def test_one_seed_claims_no_interval(drift, runs):
    result = drift("compare", runs / "grpo-0", runs / "drift-0", *QUICK)
    assert result.exit_code == 0, result.output
    assert "one seed: no intervals, because the spread between runs is unknown" in result.stdout
    assert " to " not in next(x for x in result.stdout.splitlines() if x.startswith("emoji"))


def test_the_baseline_alone_has_a_front_and_no_gains(drift, runs):
    result = drift("compare", runs / "grpo-0", *QUICK)
    assert result.exit_code == 0, result.output
    assert "at equal" not in result.stdout
    assert "comparison/compare.html" in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--baseline", "emoji-grp"], "no method 'emoji-grp' among the runs; did you mean"),
        (["--split", "train"], "was measured on test prompts, not on train: run `drift eval"),
        (["--until", "5"], "has no measurement up to update 5, only later ones"),
    ],
)
def test_wrong_requests(refused, runs, words, expected):
    assert expected in refused(2, "compare", runs, *words)


@pytest.mark.parametrize("level", ["", "0", "1.5", "half", "0.5;0.6", "nan"])
def test_levels_are_shares(drift, runs, level):
    result = drift("compare", runs, "--level", level)
    assert result.exit_code == 2
    assert "write shares above 0 and up to 1, as 0.25,0.5" in result.stderr


def test_runs_that_cannot_be_compared_exit_2(refused, runs, tmp_path):
    assert "no run directory nowhere" in refused(2, "compare", "nowhere")
    make_run(tmp_path / "bare", variants=())
    assert "`drift eval bare`" in refused(2, "compare", "bare")
    make_run(tmp_path / "other", steps=5, recipe="emoji")
    assert "steps = 20 and 5" in refused(2, "compare", runs, "other")
    make_run(tmp_path / "third", seed=2)
    assert "has the seeds 0, 1" in refused(2, "compare", runs, "third")
    with (tmp_path / "third" / FILE).open("a") as file:
        file.write("{}\n")
    line = refused(2, "compare", "third")
    assert f"third/{FILE}, line 6: not a record of `drift eval`" in line
    assert not (tmp_path / "comparison").exists()


def test_a_folder_that_cannot_be_written_exits_1(refused, runs, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(1, "compare", runs, *QUICK, "--out", "file/below")
    assert "cannot write to file/below" in line

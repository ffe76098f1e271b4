"""`drift compare`: what it prints and writes, and one line for every request it cannot fulfil."""

import html
import json
import runpy
import shutil
from pathlib import Path

import pytest
from PIL import Image

from common.comparison import standing
from common.comparison.summary import from_json
from common.evaluation.records import FILE, Variant

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
        "--baseline": "emoji", "--axis": "reward", "--diversity": "vendi",
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


def test_standing_baselines_that_lack_are_named_with_the_command(drift, runs, tmp_path):
    result = drift("compare", runs, *QUICK)
    assert result.exit_code == 0, result.output
    sentence = (
        "Standing baselines that were not measured: adapter scale, AIG, CADS of emoji-grpo and "
        "emoji. `drift compare {} --with scale,aig,cads` measures them."
    )
    assert sentence.format(runs) in " ".join(result.stdout.split())
    page = (tmp_path / "comparison" / "compare.html").read_text()
    assert sentence.format("RUN...") in html.unescape(page)
    last = [Variant(40, scale=0.5), Variant(40, aig=2.0), Variant(40, prompt_noise=0.1)]
    variants = [*map(Variant, (0, 10, 20, 40)), *last]
    make_run(tmp_path / "all", variants=variants)
    make_run(tmp_path / "some", better_curve, recipe="emoji", variants=variants[:-1])
    result = drift("compare", "all", "some", *QUICK)
    assert result.exit_code == 0, result.output
    assert "measured: CADS of emoji. `drift compare all some --with cads`" in " ".join(
        result.stdout.split()
    )
    summary = from_json((tmp_path / "comparison" / "compare.json").read_bytes())
    assert summary.unmeasured == {"emoji": ["cads"]}
    names = [method.name for method in summary.methods]
    assert [name for name in names if name.endswith("AIG")] == ["emoji-grpo, AIG", "emoji, AIG"]
    points = summary.method("emoji, AIG").points
    assert [point.aig for point in points] == [2.0, 0.0]
    sole = [line for line in result.stdout.splitlines() if line.startswith("emoji, AIG")]
    assert len(sole) == 4


def test_with_measures_the_baselines_of_the_last_checkpoint(drift, finished, refused, monkeypatch):
    few = {"scale": (0.5,), "aig": (1.0, 4.0), "cads": (0.1,)}
    assert few.keys() == standing.VALUES.keys()
    monkeypatch.setattr(standing, "VALUES", few)
    how = ("--split", "test", "--prompts", 1, "--images", 2, "--steps", 1)
    assert drift("eval", finished, *how).exit_code == 0
    before = (finished / FILE).read_text()
    words = ("compare", finished, "--baseline", "emoji", *QUICK, "--with", "cads,scale,aig")
    assert "no measure" in refused(2, *words, "--axis", "no measure")
    assert (finished / FILE).read_text() == before
    last = finished / "checkpoints" / "000002"
    last.rename(finished / "away")
    assert "no checkpoint after update 2" in refused(2, *words)
    (finished / "away").rename(last)
    result = drift(*words)
    assert result.exit_code == 0, result.output
    assert "measured update 2 with AIG 4 on test prompts" in result.output
    assert "Standing baselines" not in result.output
    lines = (finished / FILE).read_text()
    assert lines.startswith(before)
    variants = [json.loads(line)["variant"] for line in lines.splitlines()[3:]]
    assert variants == [
        {"update": 2, "scale": 0.5, "prompt_noise": 0.0},
        {"update": 2, "scale": 1.0, "prompt_noise": 0.0, "aig": 1.0},
        {"update": 2, "scale": 1.0, "prompt_noise": 0.0, "aig": 4.0},
        {"update": 2, "scale": 1.0, "prompt_noise": 0.1},
    ]
    again = drift(*words)
    assert again.exit_code == 0
    assert "measured update" not in again.output
    assert (finished / FILE).read_text() == lines


def test_neutral_runs_are_drift_by_noise_alone(drift, refused, tmp_path):
    make_run(tmp_path / "grpo")
    make_run(tmp_path / "coin", lambda done: (5 - done, 0.4), recipe="emoji-neutral")
    line = refused(2, "compare", "grpo", "coin", *QUICK, "--with", "scale")
    assert line.startswith("drift: the neutral run coin has no checkpoint to measure")
    shutil.rmtree(tmp_path / "coin")
    coin = {"recipe": "emoji-neutral", "scorers": ("embedded",)}
    make_run(tmp_path / "coin", lambda done: (5 - done, 0.4), **coin)
    result = drift("compare", "grpo", "coin", *QUICK)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "Drift by noise alone: how far reward, held-out alignment and diversity move" in text
    assert "noise alone, 1 neutral run \N{MINUS SIGN}" in text
    assert "Not fit to show what a reward does: 1 neutral run of 40 updates moves reward" in text
    assert "at equal" not in text
    make_run(tmp_path / "slow", seed=1, overrides=["optimizer.learning_rate=1e-4"], **coin)
    line = refused(2, "compare", ".", *QUICK, "--with", "scale")  # before anything is measured
    assert "differ in more than the reward: optimizer.learning_rate is" in line


@pytest.mark.parametrize("names", ["", "AIG", "scale;aig", "scale,kl"])
def test_other_baselines_are_refused(drift, runs, names):
    result = drift("compare", runs, "--with", names)
    assert result.exit_code == 2
    assert "write some of scale,aig,cads" in result.stderr


def test_later_checkpoints_can_be_left_out(drift, runs):
    result = drift("compare", runs, *QUICK, "--until", "25", "--json")
    assert result.exit_code == 0, result.output
    summary = from_json(result.stdout)
    assert {point.update for m in summary.methods for point in m.points} == {10, 20}


def test_one_seed_claims_no_interval(drift, runs):
    result = drift("compare", runs / "grpo-0", runs / "drift-0", *QUICK)
    assert result.exit_code == 0, result.output
    assert (
        "One seed: the spread between runs is unknown, so there are no intervals" in result.stdout
    )
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
        (["--cache", "x"], "--cache is for what --with measures"),
        (["--no-keep"], "--no-keep is for what --with measures"),
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

"""`drift eval`: measures what is missing, tells it in a table or as JSON, refuses what is wrong."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from common import console
from common.commands import eval_table
from common.evaluation.records import FILE

FEW = ("--prompts", 1, "--images", 2, "--steps", 1)
TEST = (*FEW, "--split", "test")


@pytest.fixture
def empty(finished):
    """A run that has no checkpoint yet."""
    shutil.rmtree(finished / "checkpoints")
    return finished


def lines(run):
    return [json.loads(line) for line in (run / FILE).read_text().splitlines()]


def test_every_checkpoint_and_the_base_on_both_splits_by_default(drift, finished):
    result = drift("eval", finished, *FEW)
    assert result.exit_code == 0, result.output
    measured = [(line["variant"]["update"], line["protocol"]["split"]) for line in lines(finished)]
    assert measured == [(update, split) for update in (0, 1, 2) for split in ("train", "test")]
    output = result.output
    assert "measured base model on train prompts: held-out " in output
    assert "measured update 2 on test prompts: held-out " in output
    assert f"{finished}: 1 train prompts, 2 images of each" in output
    heads = [line.split() for line in output.splitlines() if line.startswith("update ")]
    assert heads[0] == heads[1]
    assert heads[0][:4] == ["update", "held-out", "reward", "diversity"]
    row = next(line.split() for line in output.splitlines() if line.split()[:1] == ["base"])
    first = lines(finished)[0]["by_prompt"]
    assert row[1] == f"{first['alignment_heldout'][0]:.2f}"
    assert row[4] == "100%"
    assert output.endswith(f"records  {finished / FILE}\n")
    # The cache is beside the run, so that its siblings find it.
    assert any((finished.parent / "evaluation-cache").iterdir())


def test_again_measures_nothing_and_shows_the_same(drift, finished):
    first = drift("eval", finished, *TEST)
    before = {path: path.read_bytes() for path in (finished / "evaluation").iterdir()}
    again = drift("eval", finished, *TEST)
    assert again.exit_code == 0
    assert {path: path.read_bytes() for path in (finished / "evaluation").iterdir()} == before
    assert "measured" not in again.output
    files = [path for path in (finished.parent / "evaluation-cache").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    line = next(line for line in first.output.splitlines() if line.startswith("kept "))
    assert line.startswith(f"kept 8 images, {size:.1f} MB, in ")  # to compare with, and of 3 models
    assert "--no-keep keeps the base model's alone" in first.output.replace("\n", " ")
    assert first.output.endswith(again.output)


def test_json_for_programs(drift, finished, tmp_path):
    words = (*TEST, "--checkpoint", "latest", "--cache", tmp_path / "elsewhere", "--json")
    (first,) = json.loads(drift("eval", finished, *words).output)["runs"]
    assert (first["run"], first["records"], first["new"]) == (
        str(finished),
        str(finished / FILE),
        2,
    )
    base, latest = first["means"]
    assert (base["update"], latest["update"], latest["scale"], latest["split"]) == (0, 2, 1, "test")
    line = lines(finished)[1]
    assert latest["diversity"] == line["by_prompt"]["diversity"][0]
    assert latest["frechet"] == line["frechet"]
    assert any((tmp_path / "elsewhere").iterdir())
    (again,) = json.loads(drift("eval", finished, *words).output)["runs"]
    assert (again["new"], again["means"]) == (0, first["means"])


def test_scales_and_prompt_noise_are_rows_of_their_own(drift, finished):
    words = (*TEST, "--checkpoint", 2, "--scale", 1, "--scale", "0.5", "--prompt-noise", "0.5")
    result = drift("eval", finished, *words)
    assert result.exit_code == 0, result.output
    variants = [tuple(line["variant"].values()) for line in lines(finished)]
    assert variants == [(0.0, 1.0, 0), (0.5, 0.5, 2), (0.5, 1.0, 2)]
    head = next(line for line in result.output.splitlines() if line.startswith("update "))
    assert head.split()[:4] == ["update", "scale", "noise", "held-out"]
    assert "measured update 2 x 0.5 with prompt noise 0.5 on test prompts" in result.output
    plain = drift("eval", finished, *TEST, "--checkpoint", "base", "--prompt-noise", "0.5")
    assert plain.exit_code == 0
    assert lines(finished)[-1]["variant"] == {"prompt_noise": 0.5, "scale": 1.0, "update": 0}


def test_aig_is_measured_for_checkpoints_and_old_lines_stay(drift, finished):
    words = (*TEST, "--checkpoint", 2, "--aig", 0, "--aig", 2)
    result = drift("eval", finished, *words)
    assert result.exit_code == 0, result.output
    by_default = {"prompt_noise": 0.0, "scale": 1.0}
    assert [line["variant"] for line in lines(finished)] == [
        by_default | {"update": 0},
        by_default | {"update": 2},
        by_default | {"update": 2, "aig": 2.0},
    ]
    assert lines(finished)[2]["grid"].startswith("000002-aig2-test-")
    head = next(line for line in result.output.splitlines() if line.startswith("update "))
    assert head.split()[:3] == ["update", "AIG", "held-out"]
    assert "measured update 2 with AIG 2 on test prompts" in result.output
    again = drift("eval", finished, *words, "--json")
    (row,) = json.loads(again.output)["runs"]
    assert (row["new"], [mean["aig"] for mean in row["means"]]) == (0, [0.0, 0.0, 2.0])


def test_the_picture_holds_the_first_eight_images_of_each_prompt(drift, finished):
    words = ("--prompts", 2, "--images", 9, "--steps", 1, "--split", "test")
    assert drift("eval", finished, *words, "--checkpoint", "base").exit_code == 0
    (line,) = lines(finished)
    picture = np.asarray(Image.open(finished / "evaluation" / line["grid"]))
    assert picture.shape == (2 * 64 + 2, 8 * 64 + 7 * 2, 3)
    assert picture.std() > 10


def test_several_runs_share_one_cache(drift, finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    result = drift("eval", finished, other, finished, *TEST, "--checkpoint", "base")
    assert result.exit_code == 0, result.output
    assert lines(finished) == lines(other)
    assert len([p for p in (tmp_path / "evaluation-cache").rglob("*") if p.is_file()]) == 2


def test_a_run_without_a_checkpoint_has_its_base(refused, drift, empty):
    line = refused(2, "eval", empty, *TEST)
    assert line == (
        f"drift: {empty} has no checkpoint yet; --checkpoint base measures the model before tuning"
    )
    result = drift("eval", empty, *TEST, "--checkpoint", "base")
    assert (result.exit_code, len(lines(empty))) == (0, 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--checkpoint", "7"], "no checkpoint after update 7"),
        (["--checkpoint", "7"], "there are base, 1, 2"),
        (["--checkpoint", "last"], "--checkpoint last: write the number of an update"),
        (["--scale", "nan"], "--scale nan: write a number"),
        (["--aig", "nan"], "--aig nan: write a number"),
        (["--prompt-noise", "nan"], "--prompt-noise nan: write a number"),
        (["--backend", "tpu"], "no backend 'tpu'"),
        (["--checkpoint", "base", "--aig", "2"], "--aig has no effect on the base model"),
        (["--real", "gone"], "gone is not there: a folder of images is needed"),
        (["--feature", "embeded"], "no features 'embeded'; did you mean 'embedded'"),
    ],
)
def test_wrong_requests(refused, finished, words, expected):
    assert expected in refused(2, "eval", finished, *FEW, *words)
    assert not (finished / "evaluation").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--images", "1"], "1 is not in the range x>=2"),
        (["--split", "tset"], "'tset' is not one of 'train', 'validation', 'test'"),
        (["--scale", "2.5"], "2.5 is not in the range 0.0<=x<=2.0"),
        (["--scale", "-1"], "-1.0 is not in the range"),
        (["--prompt-noise", "-0.1"], "-0.1 is not in the range"),
        (["--aig", "-1"], "-1.0 is not in the range 0.0<=x<=100.0"),
        (["--prompts", "-1"], "-1 is not in the range x>=0"),
        (["--steps", "0"], "0 is not in the range x>=1"),
        (["--seed", "-1"], "-1 is not in the range"),
        ([], "Missing argument 'RUN...'"),
    ],
)
def test_values_out_of_range(drift, finished, words, expected):
    result = drift("eval", *([finished, *words] if words else []))
    assert result.exit_code == 2
    assert expected in result.stderr


def test_damaged_files_are_one_line(refused, drift, finished):
    assert drift("eval", finished, *TEST, "--checkpoint", "base").exit_code == 0
    file = finished / FILE
    good = file.read_bytes()
    file.write_bytes(b'{"variant": {"update": 0}}\n')
    assert f"{file}, line 1: not a record of `drift eval`" in refused(2, "eval", finished, *TEST)
    file.write_bytes(good)
    weights = finished / "checkpoints" / "000002" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    line = refused(2, "eval", finished, *TEST, "--checkpoint", 2)
    assert "adapter_model.safetensors has" in line
    assert file.read_bytes() == good


def test_what_is_no_run_is_refused(refused, tmp_path):
    assert "no run directory nowhere: it is not there" in refused(2, "eval", "nowhere")


def test_a_run_that_is_measured_already_is_left_alone(refused, finished):
    import fcntl
    import os

    (finished / "evaluation").mkdir()
    other = os.open(finished / "evaluation", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert f"another process is measuring {finished}" in refused(2, "eval", finished, *TEST)
    finally:
        os.close(other)


@pytest.mark.parametrize(("columns", "tables"), [(80, 2), (140, 1)])
def test_a_narrow_terminal_gets_two_tables_and_whole_numbers(
    drift, finished, monkeypatch, columns, tables
):
    assert drift("eval", finished, *TEST, "--checkpoint", "base").exit_code == 0
    terminal = Console(force_terminal=True, width=columns, color_system=None, highlight=False)
    monkeypatch.setattr(console, "console", terminal)
    output = drift("eval", finished, *TEST, "--checkpoint", "base").output
    shown = [line for line in output.splitlines() if line.split()[:1] in (["base"], ["update"])]
    assert len(shown) == 2 * tables
    assert max(map(len, shown)) <= columns
    words = " ".join(shown).split()
    (line,) = lines(finished)
    for name, form in {"diversity": ".3f", "high_frequency": ".4f", "coverage": ".2f"}.items():
        assert format(line["by_prompt"][name][0], form) in words


def test_real_images_and_further_features_are_in_the_table(drift, finished, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for shade in (40, 200):
        Image.new("RGB", (40, 30), (shade, 9, 90)).save(real / f"{shade}.webp")
    words = (*TEST, "--checkpoint", "base", "--feature", "embedded", "--real", real)
    result = drift("eval", finished, *words)
    assert result.exit_code == 0, result.output
    output = result.output
    shaping = "embedded, which shape the reward that was trained on"
    assert f"the features of the held-out scorer, {shaping}; to real: that to 2 real" in output
    tables = [line.split() for line in output.splitlines() if line.startswith("update ")]
    assert ["to" in head and "real" in head for head in tables] == [True, True]
    (line,) = lines(finished)
    assert line["protocol"]["real"].startswith("2 images ")
    again = drift("eval", finished, *words)
    assert "measured" not in again.output
    assert output.endswith(again.output)


def test_help_lists_it(drift):
    assert "\n  eval " in drift("--help").output


@pytest.mark.parametrize(
    ("value", "least", "places"),
    [
        *[(5.41, 2, 2), (0.541, 2, 3), (0.00541, 2, 5), (-0.0541, 2, 4), (1e-9, 2, 6)],
        *[(0.0, 2, 2), (float("nan"), 2, 2), (123.0, 2, 2)],
    ],
)
def test_small_rewards_are_shown_with_three_digits(value, least, places):
    """A reward has any unit: a JPEG reward of -0.0541 must not be -0.05 in every row."""
    assert eval_table._places(value, least) == places

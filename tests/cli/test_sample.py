"""`drift sample`: a picture of the right size from the right weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import backends, pictures
from common.backends import BackendUnavailableError
from common.config import AdapterConfig
from common.errors import RequestError
from common.runs import checkpoint

SIDE, SCALE, GAP = 32, 3, 2


@pytest.fixture
def draw(drift, finished):
    """Draws two roses and two owls; gives the picture."""

    def call(*words):
        result = drift(
            "sample", finished, "--prompt", "rose", "--prompt", "owl", "--count", 2, *words
        )
        assert result.exit_code == 0, result.output
        return np.asarray(Image.open(result.stdout.strip()))

    return call


def test_a_row_for_each_prompt_and_a_column_for_each_image(draw, finished):
    picture = draw()
    side = 2 * SIDE * SCALE + GAP
    assert picture.shape[1] == max(side, pictures.NARROWEST)
    roses, owls = (picture[end - SIDE * SCALE :][: SIDE * SCALE] for end in _bottoms(picture))
    assert (roses[:, :side] != 255).any()
    assert (owls[:, :side] != 255).any()
    assert (picture[:, side:] == 255).all()
    saved = finished / "samples" / "rose-000002-seed0.png"
    assert np.array_equal(np.asarray(Image.open(saved)), picture)


def test_scale_aig_and_prompt_noise_are_those_of_drift_eval(draw, finished):
    tuned, base = draw(), draw("--checkpoint", "base")
    assert np.array_equal(draw("--scale", 0), base)
    assert np.array_equal(draw("--aig", 0, "--scale", 1), tuned)
    others = [draw("--scale", 2), draw("--aig", 1), draw("--prompt-noise", 1)]
    assert len({picture.tobytes() for picture in (tuned, base, *others)}) == 5
    names = {path.name for path in (finished / "samples").glob("rose-*")}
    for label in ("000002-scale2", "000002-aig1", "000002-noise1", "base"):
        assert f"rose-{label}-seed0.png" in names


@pytest.mark.parametrize("option", ["--scale", "--aig"])
def test_what_does_not_change_the_base_model_is_refused(refused, finished, option):
    words = ("sample", finished, "--prompt", "rose", "--checkpoint", "base", option, 2)
    assert f"{option} has no effect on the model before tuning" in refused(2, *words)
    nan = refused(2, "sample", finished, "--prompt", "rose", option, "nan")
    assert nan.endswith(f"{option[2:]} = nan: input should be a finite number")


def _bottoms(picture):
    """Where the rows of images end: each has a caption above it."""
    high = picture.shape[0] // 2
    return high - 4, picture.shape[0]


def test_another_picture_never_takes_the_place_of_one(draw, drift, finished):
    first = draw()
    names = lambda: sorted(file.name for file in (finished / "samples").glob("rose*"))  # noqa: E731
    assert names() == ["rose-000002-seed0.png"]
    assert np.array_equal(draw(), first)
    assert names() == ["rose-000002-seed0.png"], "the same picture is one file"
    drift("sample", finished, "--prompt", "rose", "--prompt", "cat face", "--count", 1)
    drift("sample", finished, "--prompt", "rose", "--count", 1)
    assert names() == [f"rose-000002-seed0{n}.png" for n in ("-2", "-3", "")]
    assert np.array_equal(np.asarray(Image.open(finished / "samples" / names()[2])), first)


def test_out_that_exists_is_refused_before_anything_is_loaded(refused, finished, monkeypatch):
    Path("mine.png").write_text("mine")
    monkeypatch.setattr(backends, "load", lambda name: pytest.fail("loaded"))
    line = refused(2, "sample", finished, "--prompt", "rose", "--out", "mine.png")
    assert line == "drift: --out mine.png exists already; remove it, or choose another name"
    assert Path("mine.png").read_text() == "mine"


def test_checkpoints_share_their_noise_and_differ_in_their_weights(draw, finished, tmp_path):
    base, first, latest = (draw("--checkpoint", which) for which in ("base", "1", "latest"))
    assert np.array_equal(latest, draw("--checkpoint", "2", "--out", tmp_path / "again.png"))
    assert not np.array_equal(base, first)
    assert not np.array_equal(first, latest)
    # Two updates move pixels a little; other noise makes another picture.
    moved = np.abs(base.astype(int) - latest).mean()
    assert moved < 0.5 * np.abs(base.astype(int) - draw("--checkpoint", "base", "--seed", 1)).mean()


def test_a_moving_average_is_preferred_to_the_last_weights(draw, finished):
    checkpoints = finished / "checkpoints"
    snapshot = checkpoint.load(checkpoints / "000002")
    still = {name: np.zeros_like(value) for name, value in snapshot.parameters.items()}
    averaged = dataclasses.replace(snapshot, update=3, ema=still)  # an adapter that does nothing
    checkpoint.save(checkpoints, averaged, adapter=AdapterConfig(), keep=0)
    assert np.array_equal(draw("--checkpoint", "3"), draw("--checkpoint", "base"))


@pytest.mark.parametrize(
    ("words", "works", "tried", "end"),
    [
        ([], {"cpu", "mlx"}, ["cpu"], "took cpu"),
        ([], {"mlx"}, ["cpu", "mlx"], "took mlx"),
        (["--backend", "auto"], {"cpu", "mlx"}, ["mlx"], "took mlx"),
        (["--backend", "cuda"], {"cpu", "mlx"}, ["cuda"], "no cuda here"),
    ],
)
def test_the_runs_backend_is_preferred_and_the_best_one_stands_in(
    refused, finished, monkeypatch, words, works, tried, end
):
    seen = []

    def load(name):
        seen.append(name)
        if name not in works:
            raise BackendUnavailableError(f"no {name} here")
        raise RequestError(f"took {name}")

    monkeypatch.setattr(backends, "load", load)
    monkeypatch.setattr(backends, "best", lambda: "mlx")
    line = refused(2, "sample", finished, "--prompt", "rose", *words)  # a run on cpu
    assert (seen, line) == (tried, f"drift: {end}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--checkpoint", "7"], "no checkpoint after update 7"),
        (["--checkpoint", "7"], "there are 1, 2"),
        (["--checkpoint", "last"], "--checkpoint last: write the number of an update"),
        (["--out", "picture.jpg"], "ends in .png"),
    ],
)
def test_wrong_requests(refused, finished, words, expected):
    assert expected in refused(2, "sample", finished, "--prompt", "rose", *words)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_has_63_bits(drift, finished, seed):
    result = drift("sample", finished, "--prompt", "rose", "--seed", seed)
    assert result.exit_code == 2
    assert f"{seed} is not in the range 0<=x<=9223372036854775807" in result.stderr


def test_a_run_without_a_checkpoint_offers_its_base(refused, finished):
    for path in sorted((finished / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert "--checkpoint base" in refused(2, "sample", finished, "--prompt", "rose")


def test_a_picture_that_cannot_be_written(refused, finished, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(1, "sample", finished, "--prompt", "rose", "--out", "file/rose.png")
    assert "file/rose.png" in line


def test_a_prompt_that_is_no_text_is_refused(refused, finished):
    line = refused(2, "sample", finished, "--prompt", "rose \udc80")
    assert r"--prompt: the prompt 'rose \udc80' is no Unicode text" in line

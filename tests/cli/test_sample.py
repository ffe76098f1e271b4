"""`drift sample`: a picture of the right size from the right weights."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from common import backends
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
    assert picture.shape == (side, side, 3)
    saved = finished / "samples" / "rose-000002-seed0.png"
    assert np.array_equal(np.asarray(Image.open(saved)), picture)


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

"""Which parts of DiffusionKit compute what PyTorch does, and why the others do not.

docs/backends.md has the table; a release of DiffusionKit in which it is not true any more is told.
"""

from pathlib import Path

import pytest

pytest.importorskip("diffusionkit")
pytest.importorskip("torch")
pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

from mlx import nn

from drift_mlx import kit
from scripts import diffusionkit_parts as parts

DOCS = Path(__file__).parents[2] / "docs" / "backends.md"
EXACT = 1e-6
"""Roundings of float32 in a tiny model."""


@pytest.fixture(scope="module")
def errors():
    return {title: parts.measured(title) for title in parts.PARTS}


def test_the_table_is_what_is_measured(errors):
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {title: rest for title, *rest in cells if title in parts.PARTS}
    for title, (_, use) in parts.PARTS.items():
        error, said = rows[title]
        assert said == use
        assert float(error) < EXACT or 0.5 < float(error) / errors[title] < 2
        assert (float(error) < EXACT) == (errors[title] < EXACT)


def test_clips_the_sampler_and_the_maps_are_exact(errors):
    exact = {title for title, error in errors.items() if error < EXACT}
    assert exact == {title for title in errors if "CLIP" in title or "`" in title}
    assert all(errors[title] == 0 for title in errors if "map" in title)


def test_the_vae_is_off_by_the_epsilon_of_its_norms(errors, monkeypatch):
    own = nn.GroupNorm.__init__
    monkeypatch.setattr(
        nn.GroupNorm,
        "__init__",
        lambda self, *sizes, **options: own(self, *sizes, eps=1e-6, **options),
    )
    for title in ("VAE decoder", "VAE encoder"):
        assert errors[title] > 1e-5
        assert parts.measured(title) < 3 * EXACT


def test_t5_is_off_by_its_gelu_and_cannot_be_called_here(errors, monkeypatch):
    import mlx.core as mx
    from transformers import T5Config

    monkeypatch.setattr(nn, "gelu", nn.gelu_approx)
    assert parts.measured("T5") < EXACT < 1e-5 < errors["T5"]
    if mx.metal.is_available():
        return
    config = T5Config(d_model=8, num_layers=1, num_heads=1, vocab_size=4, d_kv=8, d_ff=8)
    encoder = kit.load().t5.SD3T5Encoder(config, low_memory_mode=False)
    with pytest.raises((AttributeError, KeyError)):
        encoder(mx.zeros((1, 3), dtype=mx.int32))


def test_its_mmdit_is_another_model(errors):
    assert all(errors[title] > 1e-3 for title in errors if title.startswith("MMDiT"))

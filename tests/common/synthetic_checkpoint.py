"""Checkpoints that tests save, and what they compare of them."""

from pathlib import Path

import numpy as np

from common.config import AdapterConfig
from common.runs import checkpoint
from common.runs.checkpoint import Snapshot

EVERY_FILE = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "ema.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
]
LORA, FULL = AdapterConfig(rank=2), AdapterConfig(kind="full")


def snapshot(update: int = 7, *, ema: bool = True, scale: float = 1.0) -> Snapshot:
    random_numbers = np.random.default_rng(update)
    parameters = {
        f"blocks.{block}.qkv.lora_{part}.weight": (
            scale * random_numbers.normal(size=shape)
        ).astype(np.float32)
        for block in (1, 0)
        for part, shape in (("B", (9, 2)), ("A", (2, 3)))
    }
    moments = {
        f"{moment}/{name}": value * 0.5
        for moment in ("second", "first")
        for name, value in parameters.items()
    }
    return Snapshot(
        update=update,
        parameters=parameters,
        ema={name: value * 0.25 for name, value in parameters.items()} if ema else None,
        optimizer={"step": np.asarray(update, dtype=np.int64), **moments},
        state={"ema_steps": 3, "text": "größer", "list": [1, 2.5, None]},
    )


def save(folder: Path, value: Snapshot, adapter: AdapterConfig = LORA, keep: int = 0) -> Path:
    return checkpoint.save(folder, value, adapter=adapter, keep=keep)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(got: Snapshot, expected: Snapshot) -> None:
    assert (got.update, got.state) == (expected.update, expected.state)
    for part in ("parameters", "ema", "optimizer"):
        ours, theirs = getattr(got, part), getattr(expected, part)
        assert (ours is None) == (theirs is None)
        for name in (ours or {}).keys() | (theirs or {}).keys():
            np.testing.assert_array_equal(ours[name], theirs[name], strict=True)

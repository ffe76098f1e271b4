"""Tiny checkpoints of the real model families, made when a test first asks for one."""

import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """(family, **shape) -> the folder of a tiny checkpoint; see `tiny.py`."""
    made, builders = {}, {}

    def path(family, **shape):
        key = (family, *sorted(shape.items()))
        if key not in made:
            if not builders:
                import torch

                builders.update(
                    runpy.run_path(str(Path(__file__).with_name("tiny.py")))["BUILDERS"]
                )
                torch.manual_seed(0)
            made[key] = builders[family](tmp_path_factory.mktemp(family) / "model", **shape)
        return made[key]

    return path

"""Images of a run's base model, any number of each prompt, drawn once and then kept.

They are kept in blocks of BLOCK images of one prompt, so that more images extend what is there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from common import random
from common.backends import Backend, Policy
from common.config import RolloutConfig
from common.evaluation.cache import Cache
from common.evaluation.records import Protocol
from common.runs.directory import RunDirectory
from common.sampling.ode import sample_images
from common.sampling.process import make_process

BLOCK = 16
"""Images of one prompt that are kept together; the number of images is a multiple of it."""

OnImages = Callable[[str, int, int], None]
"""Called with what is sampled or read, the number of its images that are done, and that of all."""


@dataclass(frozen=True)
class Part:
    """Images of some prompts: uint8 [G, BLOCK, H, W, 3], of the prompts and numbers named."""

    images: np.ndarray
    prompts: range
    numbers: range


class BaseImages:
    """The images of a run's base model under a protocol; ValueError when it cannot be loaded."""

    def __init__(
        self, run: RunDirectory, backend: Backend, store: Cache, on_images: OnImages | None
    ) -> None:
        config = run.config
        self._rollout, self._backend, self._store = config.rollout, backend, store
        self._policy = backend.policy(config.model, config.adapter, seed=config.run.seed)
        self._on_images = on_images or (lambda name, done, total: None)

    def parts(self, how: Protocol) -> Iterator[Part]:
        """The images in parts: all of some prompts, block by block, then of the next prompts.

        A part is as many prompts as a forward pass takes, at least one, which bounds memory. It is
        drawn whole where any of its images is not kept.
        """
        prompts, name = len(how.prompts), f"base model, {how.split}"
        size = max(self._rollout.batch_size // BLOCK, 1)
        total, done = prompts * how.images, 0
        around = circumstances(self._policy, self._backend, self._rollout, how)
        self._on_images(name, 0, total)
        for start in range(0, prompts, size):
            group = range(start, min(start + size, prompts))
            for first in range(0, how.images, BLOCK):

                def report(drawn: int, _: int, before: int = done) -> None:
                    self._on_images(name, before + drawn, total)

                images = self._block(how, group, first, around, report)
                yield Part(images, group, range(first, first + BLOCK))
                done += len(group) * BLOCK
                self._on_images(name, done, total)

    def _block(
        self,
        how: Protocol,
        group: range,
        first: int,
        around: dict[str, Any],
        report: Callable[[int, int], None],
    ) -> np.ndarray:
        texts = [how.prompts[n] for n in group]

        @cache
        def drawn() -> np.ndarray:
            return sample_images(
                self._policy,
                self._backend,
                make_process(self._policy, self._rollout, how.steps),
                texts,
                BLOCK,
                seed=how.seed,
                batch_size=self._rollout.batch_size,
                first=first,
                on_progress=report,
            )

        return np.stack(
            [
                self._store.images(
                    {"weights": how.model, "prompt": text, "first": first, **around},
                    BLOCK,
                    lambda done, place=place: iter([drawn()[place][done:]]),
                )
                for place, text in enumerate(texts)
            ]
        )


def circumstances(
    policy: Policy, backend: Backend, rollout: RolloutConfig, how: Protocol
) -> dict[str, Any]:
    """What determines images beside weights, prompts and numbers, as JSON values."""
    process = make_process(policy, rollout, how.steps)
    facts = backend.describe()
    return {
        "seed": how.seed,
        "levels": process.table.tolist(),
        "sampler": how.sampler,
        "guidance": process.guidance,
        "random_stream": random.fingerprint(),
        "backend": [backend.name, backend.dtype, facts.get("library")],
        "device": facts.get("device"),
    }

"""Images of a measurement, sampled by one process or by several.

Of several, process 0 measures: it asks for images, and the others answer with every n-th batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from common.algorithm import annealing
from common.backends import Backend, Policy
from common.config import RolloutConfig
from common.evaluation import cads
from common.progress import OnProgress
from common.sampling.ode import sample_batches
from common.sampling.process import make_process

__all__ = ["ImageSampler"]


class ImageSampler:
    """Samples images of any weights of one model."""

    def __init__(self, policy: Policy, backend: Backend, rollout: RolloutConfig) -> None:
        self._policy, self._backend, self._rollout = policy, backend, rollout

    def batches(
        self,
        parameters: Mapping[str, np.ndarray],
        prompts: Sequence[str],
        images: int,
        *,
        steps: int,
        seed: int,
        done: int,
        prompt_noise: float,
        aig: float,
        on_progress: OnProgress | None = None,
    ) -> Iterator[np.ndarray]:
        """What `sample_batches` yields for these weights, whatever the number of processes.

        Of several processes 0 calls it, while the others are in `serve`.
        """
        request = {
            "parameters": dict(parameters),
            "prompts": list(prompts),
            "images": images,
            "steps": steps,
            "seed": seed,
            "done": done,
            "prompt_noise": prompt_noise,
            "aig": aig,
        }
        self._backend.world.lead(lambda: request, "sampling")
        return self._shared(request, on_progress)

    def serve(self) -> None:
        """Help process 0 with what it asks for, until it says `end`."""
        while (request := self._backend.world.lead(_nothing, "sampling")) is not None:
            for _ in self._shared(request, None):
                pass

    def end(self) -> None:
        """Let the other processes go on; process 0 calls it."""
        self._backend.world.lead(_nothing, "sampling")

    def _shared(
        self, request: Mapping[str, Any], on_progress: OnProgress | None
    ) -> Iterator[np.ndarray]:
        """All batches in order: in each round a process samples one."""
        world, own = self._backend.world, self._own(request, on_progress)
        while True:
            images = [
                batch
                for batch in world.share(lambda: next(own, None), "sampling", passes=True)
                if batch is not None
            ]
            yield from images
            if len(images) < world.size:
                return

    def _own(
        self, request: Mapping[str, Any], on_progress: OnProgress | None
    ) -> Iterator[np.ndarray]:
        """The batches of this process."""
        process = make_process(self._policy, self._rollout, request["steps"])
        self._policy.load_parameters(request["parameters"])
        return sample_batches(
            self._policy,
            self._backend,
            process,
            request["prompts"],
            request["images"],
            seed=request["seed"],
            batch_size=self._rollout.batch_size,
            done=request["done"],
            perturb=cads.perturbation(self._backend, process, request["prompt_noise"]),
            tuned_shares=annealing.tuned_shares(process.steps, request["aig"]),
            on_progress=on_progress,
            world=self._backend.world,
        )


def _nothing() -> dict[str, Any] | None:
    """No request: process 0 has measured everything."""
    return None

"""Moving average of the trainable parameters, kept on the host in float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from common.backends import Backend, Policy


class MovingAverage:
    """theta_avg <- d theta_avg + (1 - d) theta every few optimizer steps.

    d = min(decay, (1 + s) / (10 + s)) after s optimizer steps: the warm-up of Flow-GRPO.
    """

    def __init__(self, backend: Backend, policy: Policy, *, decay: float, every: int) -> None:
        self._backend, self._decay, self._every = backend, decay, every
        self.steps = 0
        self.values = self._read(policy)

    def step(self, policy: Policy) -> None:
        """Count one optimizer step and move the average when it is due."""
        self.steps += 1
        if self.steps % self._every:
            return
        decay = np.float32(min(self._decay, (1 + self.steps) / (10 + self.steps)))
        for name, value in self._read(policy).items():
            self.values[name] = decay * self.values[name] + (1 - decay) * value

    def load(self, values: Mapping[str, np.ndarray], steps: int) -> None:
        """Restore a saved average."""
        self.values, self.steps = dict(values), steps

    @contextmanager
    def applied(self, policy: Policy) -> Iterator[None]:
        """Within it the policy has the averaged parameters."""
        current = self._read(policy)
        policy.load_parameters(self.values)
        try:
            yield
        finally:
            policy.load_parameters(current)

    def _read(self, policy: Policy) -> dict[str, np.ndarray]:
        to_numpy = self._backend.to_numpy
        return {name: np.array(to_numpy(value)) for name, value in policy.parameters().items()}

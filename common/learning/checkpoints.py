"""The checkpoints of a run: process 0 reads and writes them, and all have the same weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from common.backends import Backend, Optimizer, Policy
from common.config import Config
from common.errors import PeerError
from common.learning import state
from common.learning.moving_average import MovingAverage
from common.runs import checkpoint
from common.runs.directory import RunDirectory
from common.runs.resuming import snapshot_to_resume

__all__ = ["Checkpoints"]


class Checkpoints:
    """Saves and restores what a run has learned."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        run: RunDirectory,
        policy: Policy,
        optimizer: Optimizer,
        average: MovingAverage | None,
    ) -> None:
        self._config, self._backend, self._run = config, backend, run
        self._policy, self._optimizer, self._average = policy, optimizer, average

    def save(self, update: int) -> Path | None:
        """Save after that many updates; returns the folder, None where it was there.

        Every process calls it. Raises PeerError where two have trained different weights.
        """
        self._check_agreement(update)
        world = self._backend.world
        path = world.lead(lambda: self.save_alone(update), "saving a checkpoint")
        return None if path is None else Path(path)

    def save_alone(self, update: int) -> str | None:
        """What `save` does, by this process, without the others."""
        newest = checkpoint.latest(self._run.checkpoints)
        if newest is not None and int(newest.name) == update:
            return None
        snapshot = state.snapshot(
            self._backend,
            self._policy,
            self._optimizer,
            self._average,
            update=update,
            evaluated=[row["update"] for row in self._run.evaluations()],
        )
        keep, adapter = self._config.checkpoint.keep, self._config.adapter
        return str(checkpoint.save(self._run.checkpoints, snapshot, adapter=adapter, keep=keep))

    def restore(self, resume_from: int | None) -> int:
        """Put the newest checkpoint back, or that after `resume_from` updates; returns its update.

        Every process calls it; only process 0 needs the files. Records and checkpoints of later
        updates are dropped or set aside. Errors are those of `snapshot_to_resume`.
        """
        world, update = self._backend.world, 0

        def stored() -> dict[str, Any] | None:
            snapshot = snapshot_to_resume(self._run, resume_from)
            return None if snapshot is None else vars(snapshot)

        values = world.lead(stored, "reading the checkpoint")
        if values is not None:
            snapshot = checkpoint.Snapshot(**values)
            state.restore(snapshot, self._policy, self._optimizer, self._average)
            update = snapshot.update

        def go_back() -> None:
            if resume_from is not None:
                checkpoint.set_aside(self._run.checkpoints, after=resume_from)
            self._run.rewind(update)

        world.lead(go_back, "reading the checkpoint")
        self._check_agreement(update)
        return update

    def _check_agreement(self, update: int) -> None:
        world = self._backend.world
        if world.size == 1:
            return
        digests = world.share(self._digest, "comparing the weights")
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise PeerError(
                    f"process {rank} of {world.size} has other weights than process 0 after update "
                    f"{update}: their hardware or libraries differ"
                )

    def _digest(self) -> str:
        """SHA-256 of the trained arrays' bytes, in the order of their names: hexadecimal."""
        total = hashlib.sha256()
        for value in self._policy.parameters().values():
            total.update(np.ascontiguousarray(self._backend.to_numpy(value)).tobytes())
        return total.hexdigest()

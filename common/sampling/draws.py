"""Normal draws of the samples of an update, kept while they fit and drawn ahead of their use.

A draw depends on its key alone, so nothing that is done here changes a number.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np

from common import random
from common.random import Key, Purpose

__all__ = ["KEPT", "Draws"]

KEPT = 2**29
"""Bytes of draws that are kept on the host for an update."""


class Draws:
    """Rows of normal draws by key, float32: each is drawn once while all of them fit.

    kept: bytes of rows that are kept. Rows beyond it are drawn whenever they are needed.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._room = kept
        self._rows: dict[Key, np.ndarray] = {}
        self._ahead: dict[Purpose, tuple[list[Key], Future[np.ndarray]]] = {}

    def take(self, keys: Sequence[Key], count: int) -> np.ndarray:
        """One row of `count` draws for each key, all of one purpose: float32 [len(keys), count]."""
        begun, future = self._ahead.pop(keys[0].purpose, ([], None))
        rows = dict(zip(begun, future.result() if future else (), strict=True))
        missing = [key for key in self._missing(keys) if key not in rows]
        rows |= zip(missing, random.normals(missing, (count,)), strict=True)
        for key, row in rows.items():
            if row.nbytes <= self._room:
                self._room -= row.nbytes
                self._rows[key] = row
        return np.stack([self._rows[key] if key in self._rows else rows[key] for key in keys])

    def draw_ahead(self, keys: Sequence[Key], count: int) -> None:
        """Begin to draw, in a thread, the rows that `take` will be asked for next."""
        purpose, missing = keys[0].purpose, self._missing(keys)
        if missing and purpose not in self._ahead:
            self._ahead[purpose] = missing, _thread().submit(random.normals, missing, (count,))

    def _missing(self, keys: Sequence[Key]) -> list[Key]:
        return [key for key in dict.fromkeys(keys) if key not in self._rows]


@cache
def _thread() -> ThreadPoolExecutor:
    """The one thread that draws ahead; numpy lets others run meanwhile."""
    return ThreadPoolExecutor(1, thread_name_prefix="draws")

"""A cache of scores by reward, version, image, prompt and metadata."""

import hashlib
import json
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import consent
from common.rewards.guard import RewardError

LIMIT = 100_000
"""Scores in memory; the oldest are dropped first. One takes about 200 bytes."""


def address(
    identity: str, version: str, image: np.ndarray, prompt: str, metadata: Mapping[str, Any]
) -> str:
    """SHA-256 over everything that determines a score.

    identity: the reward's name and options. image: uint8 [H, W, 3].
    """
    description = json.dumps([identity, version, prompt, metadata], sort_keys=True, default=repr)
    whole = hashlib.sha256(f"{description} {image.shape}\n".encode())
    whole.update(np.ascontiguousarray(image).tobytes())
    return whole.hexdigest()


class ScoreCache:
    """Finite scores by address: in memory, and in a SQLite file where one is given.

    Raises RewardError in one line when the file is not such a cache or cannot be written.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._memory: OrderedDict[str, float] = OrderedDict()
        self._file, self._base = file, None
        if file is not None:
            if file.is_absolute() or ".." in file.parts:
                consent.require(str(file), f"keep scores in {file} (reward.cache)")
            try:
                # Calls come from one thread at a time, but not always from the same thread.
                self._base = sqlite3.connect(file, timeout=30, check_same_thread=False)
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS scores (address TEXT PRIMARY KEY, score REAL)"
                )
                self._base.commit()
            except sqlite3.Error as error:
                raise RewardError(f"reward.cache = '{file}': {error}") from None

    def find(self, addresses: Sequence[str]) -> np.ndarray:
        """The scores of addresses: float64 [N], NaN where there is none."""
        return np.array([self._one(address) for address in addresses], dtype=np.float64)

    def keep(self, addresses: Sequence[str], scores: np.ndarray) -> None:
        """Store the finite scores."""
        known = {a: float(s) for a, s in zip(addresses, scores, strict=True) if np.isfinite(s)}
        self._memory.update(known)
        while len(self._memory) > LIMIT:
            self._memory.popitem(last=False)
        if self._base is not None:
            try:
                with self._base:
                    self._base.executemany(
                        "INSERT OR REPLACE INTO scores VALUES (?, ?)", known.items()
                    )
            except sqlite3.Error as error:
                raise RewardError(f"reward.cache = '{self._file}': {error}") from None

    def _one(self, address: str) -> float:
        if (score := self._memory.get(address)) is not None:
            return score
        if self._base is None:
            return np.nan
        try:
            row = self._base.execute(
                "SELECT score FROM scores WHERE address = ?", (address,)
            ).fetchone()
        except sqlite3.Error as error:
            raise RewardError(f"reward.cache = '{self._file}': {error}") from None
        return np.nan if row is None else float(row[0])

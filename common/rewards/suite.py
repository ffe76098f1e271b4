"""The rewards of a run: made once, then called on every rollout in full batches.

A batch may contain several prompts. Equal images of equal prompts are scored once. An exact reward
(`Spec.exact`) gives the same bits whatever the other images of the call are, so its scores may be
cached, and it may start while later images are still sampled. A remote one may start early too,
since it always gets the same parts. All others get the whole rollout in one call, so that a resumed
run repeats its bytes.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np

from common.algorithm.combine import Combination, combine, finite_mean
from common.backends import Alone, Backend, World
from common.backends.world import in_order
from common.config import RewardConfig
from common.rewards import cache, guard
from common.rewards.registry import NamedReward, create
from common.rewards.spec import RAW

Describe = Callable[[int], str]


class RewardSuite:
    """Every term of `[reward]`, ready to score."""

    def __init__(self, terms: Mapping[str, float], backend: Backend, config: RewardConfig):
        """Load every term. Raises RewardNameError for the first that cannot be made."""
        self.terms = dict(terms)
        self.weights = dict(terms)
        """The weights that training uses now: `terms`, unless the audit has lowered one."""
        self.rewards = {
            name: create(name, backend, config.options.get(name)) for name in self.terms
        }
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Wall time of each term so far, also while other work was done."""
        self.counts: dict[str, int] = {"scored": 0, "cached": 0}
        """Numbers of scores computed and of scores from the cache."""
        self.config = config
        self.cache = cache.ScoreCache(Path(config.cache) if config.cache else None)

    def score(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        describe: Describe,
    ) -> dict[str, np.ndarray]:
        """The raw values of each term: float64 [N] by name, before any weight or scaling.

        Arguments and errors are those of `guard.score`; an image's NaN in one term stays;
        `combine` makes the sum NaN. Groups are consecutive equal prompts.
        """
        with self.begin(prompts, metadata, describe) as scoring:
            scoring.add(images)
            return scoring.result()

    def begin(
        self,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        describe: Describe,
        world: World | None = None,
    ) -> "Scoring":
        """Score images that come in parts, in the order of the prompts; a context manager.

        world: processes that all get the same images, and share the calls; None is one.
        """
        return Scoring(self, prompts, metadata, describe, world or Alone())

    def scaled(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The raw values after each term's scaling."""
        return {name: self.rewards[name].scale(values) for name, values in scores.items()}

    def total(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The reward that training maximises, of raw values [P, G] by term: [P, G]."""
        return self._combined(scores, self.weights, self.config.combine)

    def reported(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The reward of an evaluation: weighted by `terms`, and never relative to the group."""
        method = self.config.combine
        method = "weighted_sum" if method == "group_zscore" else method
        return self._combined(scores, self.terms, method)

    def metrics(self, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Means to log: of every raw value, and of the scaled one where there is a scaling."""
        means = {f"reward/term/{name}": float(finite_mean(v)) for name, v in scores.items()}
        for name, values in self.scaled(scores).items():
            if self.config.options.get(name, {}).get("scaling", RAW) != RAW:
                means[f"reward/scaled/{name}"] = float(finite_mean(values))
        return means

    def times(self, before: Mapping[str, float]) -> dict[str, float]:
        """Seconds that each term has taken since `seconds` was copied as `before`."""
        return {
            f"time/reward/{name}": self.seconds[name] - before.get(name, 0.0) for name in self.terms
        }

    def _combined(
        self, scores: Mapping[str, np.ndarray], weights: Mapping[str, float], method: Combination
    ) -> np.ndarray:
        floors, ceilings = self.config.floors, self.config.ceilings
        return combine(
            self.scaled(scores), weights, method=method, floors=floors, ceilings=ceilings
        )


class Scoring:
    """One pass over N images; some terms start before all images have arrived."""

    def __init__(
        self,
        suite: RewardSuite,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        describe: Describe,
        world: World,
    ) -> None:
        self._suite, self._describe, self._world = suite, describe, world
        self._prompts, self._metadata = prompts, metadata
        self._images: list[np.ndarray] = []
        self._early: dict[str, list[_Part]] = {
            name: [] for name, reward in suite.rewards.items() if _may_begin_early(reward)
        }
        self._open = ExitStack()
        self._calls = {name: self._open.enter_context(guard.Calls()) for name in self._early}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, images: np.ndarray) -> None:
        """Take the next images, uint8 [n, H, W, 3]."""
        start = sum(map(len, self._images))
        self._images.append(images)
        for name, parts in self._early.items():
            if (len(self._images) - 1) % self._world.size == self._world.rank:
                part = self._part(name, images, start)
                part.begin(self._calls[name])
                parts.append(part)

    def result(self) -> dict[str, np.ndarray]:
        """The raw values of each term, after all images were added: float64 [N] by name."""
        images = np.concatenate(self._images)
        if len(images) != len(self._prompts):
            raise ValueError(f"{len(images)} images but {len(self._prompts)} prompts")
        return {
            name: self._early_result(name) if name in self._early else self._whole(name, images)
            for name in self._suite.rewards
        }

    def _early_result(self, name: str) -> np.ndarray:
        """Of a term whose parts were dealt to the processes: float64 [N]."""
        parts = self._early[name]
        scores = self._world.share(lambda: [part.result() for part in parts], "scoring")
        return np.concatenate(in_order(scores))

    def _whole(self, name: str, images: np.ndarray) -> np.ndarray:
        """Of a term that gets all images: a declared one's calls are dealt to the processes."""
        rank, size = self._world.rank, self._world.size
        part = self._part(name, images, 0)

        def own() -> list[np.ndarray]:
            with guard.Calls() as calls:
                if self._suite.rewards[name].spec is not None:
                    part.begin(calls, dealt=(rank, size))
                elif rank == 0:
                    part.begin(calls)
                return part.scores()

        for rows, values in self._world.share(own, "scoring"):
            part.put(rows, values)
        return part.result()

    def _part(self, name: str, images: np.ndarray, start: int) -> "_Part":
        rows = slice(start, start + len(images))
        prompts, metadata = self._prompts[rows], self._metadata[rows]
        return _Part(
            self._suite, self._suite.rewards[name], images, prompts, metadata, start, self._describe
        )


class _Part:
    """One term on some images: the images that need a call, their batches, and the scores."""

    def __init__(
        self,
        suite: RewardSuite,
        reward: NamedReward,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        start: int,
        describe: Describe,
    ) -> None:
        self._suite, self._reward, self._describe = suite, reward, describe
        self._images, self._prompts, self._metadata = images, prompts, metadata
        self._start = start
        self._values = np.full(len(images), np.nan)
        self._addresses = self._find()
        self._calls: list[tuple[np.ndarray, guard.Call]] = []

    def begin(self, calls: guard.Calls, dealt: tuple[int, int] = (0, 1)) -> None:
        """Start the calls, one after another; dealt = (k, n): every n-th, from the k-th on."""
        timed = _Timed(self._reward, self._suite)
        for rows in self._batches()[dealt[0] :: dealt[1]]:
            prompts = [str(self._prompts[int(row)]) for row in rows]
            metadata = [self._metadata[int(row)] for row in rows]
            self._calls.append((rows, calls.start(timed, self._images[rows], prompts, metadata)))

    def scores(self) -> list[np.ndarray]:
        """Wait for the calls that were started: the rows of their images, and the scores."""
        config = self._suite.config
        scored = np.zeros(0, dtype=np.int64)
        for rows, call in self._calls:
            self._values[rows] = call.result(
                timeout=config.timeout,
                on_error=config.on_error,
                describe=lambda i, rows=rows: self._describe(self._start + int(rows[i])),
            )
            scored = np.concatenate([scored, rows])
        self._calls = []
        self._suite.counts["scored"] += len(scored)
        return [scored, self._values[scored]]

    def put(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Take scores of another process."""
        self._values[rows] = values

    def result(self) -> np.ndarray:
        """Wait for the calls: float64 [n]."""
        self.scores()
        if self._addresses is not None:
            first = {address: i for i, address in reversed([*enumerate(self._addresses)])}
            self._values = self._values[[first[address] for address in self._addresses]]
            if self._reward.exact:
                self._suite.cache.keep(self._addresses, self._values)
        return self._values

    def _find(self) -> list[str] | None:
        """Cache addresses of the images, with known scores filled in; None without a cache."""
        reward = self._reward
        if reward.spec is None or not reward.version or reward.groupwise:
            return None
        addresses = [
            cache.address(reward.identity, reward.version, image, prompt, about)
            for image, prompt, about in zip(
                self._images, self._prompts, self._metadata, strict=True
            )
        ]
        if reward.exact:
            self._values = self._suite.cache.find(addresses)
        return addresses

    def _batches(self) -> list[np.ndarray]:
        """Rows of each call."""
        rows = np.arange(len(self._images))
        if self._reward.groupwise:
            groups = groupby(rows.tolist(), key=lambda row: self._prompts[row])
            return [np.array(list(group)) for _, group in groups]
        if self._addresses is not None:
            _, first = np.unique(self._addresses, return_index=True)
            rows = np.sort(first)
            self._suite.counts["cached"] += len(self._images) - len(rows)
        unknown = rows[np.isnan(self._values[rows])]
        self._suite.counts["cached"] += len(rows) - len(unknown)
        size = self._reward.batch_size or max(len(unknown), 1)
        return [unknown[i : i + size] for i in range(0, len(unknown), size)]


class _Timed:
    """A reward that adds its wall time to the suite's."""

    def __init__(self, reward: NamedReward, suite: RewardSuite) -> None:
        self.name, self._reward, self._suite = reward.name, reward, suite

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> Any:
        start = time.perf_counter()
        try:
            return guard.numbers(self._reward(images, prompts, metadata))
        finally:
            self._suite.seconds[self.name] += time.perf_counter() - start


def _may_begin_early(reward: NamedReward) -> bool:
    if reward.spec is None or reward.groupwise:
        return False
    return reward.exact or reward.spec.device == "remote"

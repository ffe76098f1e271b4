"""Images of the base and of the tuned model, and all that is measured on both."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common import random
from common.algorithm import diversity, quality
from common.audit import statistics, verdict
from common.backends import Backend
from common.config import RewardConfig
from common.prompts import Prompt
from common.random import Key, Purpose
from common.rewards import REWARDS, RewardError, RewardNameError, RewardSuite
from common.rewards.image import jpeg_kilobytes

HELD_OUT = "embedded, held out"
"""The embedded scorer that nothing may train on."""

STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edge density": quality.edge_density,
    "colour entropy": quality.color_entropy,
    "saturation": quality.saturation,
    "high-frequency energy": quality.high_frequency_energy,
    "JPEG size (kB)": jpeg_kilobytes,
}
"""Uint8 [N, H, W, 3] to float64 [N]."""

RESAMPLES = 1000

NOT_QUALITY = frozenset({"jpeg_compressibility", "jpeg_incompressibility"})
"""Rewards that are image statistics: an audit counts them there."""


@dataclass(frozen=True)
class Side:
    """One model: images uint8 [P, n, H, W, 3]; float64 [P, n] by name."""

    images: np.ndarray
    reward: np.ndarray
    terms: dict[str, np.ndarray]
    heldout: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    diversity: float


@dataclass(frozen=True)
class Audit:
    """Everything that the page shows. skipped: scorers that could not take part, and why."""

    base: Side
    tuned: Side
    prompts: tuple[Prompt, ...]
    skipped: dict[str, str]
    effects: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    explained: dict[str, tuple[float, float]]
    """By statistic, and "all together": of the base's and of the tuned reward."""
    calibration: dict[str, tuple[dict[str, float], float]]
    """"base" and "tuned": mean reward by group of prompts, and the gap; {} without groups."""
    verdict: verdict.Verdict


class Scorers:
    """The reward of a run and every scorer that it does not maximise and that works here."""

    def __init__(
        self,
        reward: RewardConfig,
        backend: Backend,
        wanted: Sequence[str] | None = None,
        *,
        suite: RewardSuite | None = None,
    ) -> None:
        """wanted: names of held-out scorers, all of which must work; None takes what there is.

        suite: the run's rewards, where they are loaded already.

        Raises RewardNameError for a wanted one that cannot be made, or that the run maximises.
        """
        self.suite = suite or RewardSuite(reward.terms, backend, reward)
        self.skipped: dict[str, str] = {}
        self._heldout = backend.scorer("heldout")
        self._features = self._heldout
        maximised = {str(reward.options.get(name, {}).get("reward", name)) for name in reward.terms}
        if wanted is not None and (both := maximised & set(wanted)):
            raise RewardNameError(f"reward '{min(both)}' is what the run maximises: not held out")
        self._suites: dict[str, RewardSuite] = {}
        for name in _others(maximised) if wanted is None else wanted:
            config = RewardConfig(terms={name: 1.0}, timeout=reward.timeout)
            try:
                self._suites[name] = RewardSuite(config.terms, backend, config)
            except RewardNameError as error:
                if wanted is not None:
                    raise
                self.skipped[name] = str(error)

    def reads(self, prompts: Sequence[Prompt]) -> bool:
        """Whether the embedded held-out scorer knows the words."""
        return self._heldout.reads([prompt.text for prompt in prompts])

    def side(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Side:
        """Measure images uint8 [P, n, H, W, 3] of the prompts; RewardError of the run's reward."""
        shape, flat = images.shape[:2], images.reshape(-1, *images.shape[2:])
        repeated = [prompt for prompt in prompts for _ in range(shape[1])]
        texts = [prompt.text for prompt in repeated]
        metadata = [prompt.metadata for prompt in repeated]

        def describe(n: int) -> str:
            return f"prompt '{texts[n]}', image {n % shape[1]}"

        scores = self.suite.score(flat, texts, metadata, describe)
        terms = {name: values.reshape(shape) for name, values in scores.items()}
        heldout: dict[str, np.ndarray] = {}
        if self.reads(prompts):
            heldout[HELD_OUT] = self._heldout.score(flat, texts).reshape(shape)
        for name, suite in list(self._suites.items()):
            try:
                unfit = getattr(suite.rewards[name].function, "unfit", None)
                if unfit is not None and (why := unfit(texts, metadata)):
                    raise RewardError(why)
                values = suite.score(flat, texts, metadata, describe)[name].reshape(shape)
                if statistics.spread(values) == 0:
                    raise RewardError(f"gives every image of a prompt the same: {values[0, 0]:g}")
                heldout[name] = values
            except RewardError as error:  # it cannot judge these prompts
                self.skipped[name] = str(error)
                del self._suites[name]
        features = self._features.features(flat).astype(np.float64).reshape(*shape, -1)
        apart = diversity.mean_pairwise(diversity.cosine_distances(features))
        measured = {name: of(flat).reshape(shape) for name, of in STATISTICS.items()}
        return Side(
            images, self.suite.reported(terms), terms, heldout, measured, float(apart.mean())
        )


def compare(
    base: Side,
    tuned: Side,
    prompts: Sequence[Prompt],
    *,
    skipped: Mapping[str, str],
    group_by: str | None,
    seed: int,
) -> Audit:
    """All numbers of an audit. group_by: a key of the prompts' metadata. No model is asked."""
    before, after = _by_name(base), _by_name(tuned)
    names = [name for name in before if name in after]
    effects = {name: statistics.effect(before[name], after[name]) for name in names}
    key = Key(seed, Purpose.BOOTSTRAP)
    draws = random.generator(key).integers(len(prompts), size=(RESAMPLES, len(prompts)))
    both = {name: before[name] for name in names}
    explained = {
        name: (
            statistics.explained(base.reward, base.statistics[name]),
            statistics.explained(tuned.reward, tuned.statistics[name]),
        )
        for name in STATISTICS
    }
    judged = verdict.judge(
        reward=effects["reward"],
        heldout={name: effects[name] for name in base.heldout if name in tuned.heldout},
        drift={name: effects[name] for name in STATISTICS},
        explained={name: after for name, (_, after) in explained.items()},
        diversity=tuned.diversity / base.diversity if base.diversity > 0 else math.nan,
    )
    before_all, after_all = (
        statistics.jointly_explained(side.reward, [*side.statistics.values()])
        for side in (base, tuned)
    )
    explained["all together"] = before_all, after_all
    groups = None if group_by is None else [str(p.metadata.get(group_by, "-")) for p in prompts]
    return Audit(
        base,
        tuned,
        tuple(prompts),
        dict(skipped),
        effects,
        statistics.intervals(both, after, draws),
        explained,
        {
            name: statistics.calibration(side.reward, groups)
            for name, side in (("base", base), ("tuned", tuned))
            if groups is not None
        },
        judged,
    )


def _by_name(side: Side) -> dict[str, np.ndarray]:
    return {"reward": side.reward, **side.heldout, **side.statistics}


def _others(maximised: set[str]) -> list[str]:
    """Names of the scorers that work here without more being said, and are not maximised."""
    return [
        info.name
        for info in REWARDS.available()
        if info.works and info.name not in maximised | NOT_QUALITY | {"remote"}
    ]

"""Scores and statistics of the images of the base model and of the tuned model."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from common import random
from common.algorithm import diversity, quality
from common.audit import statistics, verdict
from common.backends import Backend
from common.config import EvaluateConfig, RewardConfig
from common.prompts import Prompt
from common.random import Key, Purpose
from common.rewards import (
    REWARDS,
    Features,
    RewardError,
    RewardNameError,
    RewardSuite,
    held_out,
)
from common.rewards.image import jpeg_kilobytes

HELD_OUT = "embedded, held out"
"""Name of the embedded held-out scorer, which training never uses."""

STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edge density": quality.edge_density,
    "colour entropy": quality.color_entropy,
    "saturation": quality.saturation,
    "high-frequency energy": quality.high_frequency_energy,
    "JPEG size (kB)": jpeg_kilobytes,
}
"""Image statistics by name: uint8 [N, H, W, 3] to float64 [N]."""

RESAMPLES = 1000

IS_STATISTIC = {
    "jpeg_compressibility": "JPEG size (kB)",
    "jpeg_incompressibility": "JPEG size (kB)",
}
"""Rewards that are image statistics: their names among STATISTICS. They say nothing of quality."""


@dataclass(frozen=True)
class Side:
    """One model, measured: images uint8 [P, n, H, W, 3]; values float64 [P, n] by name.

    diversity: mean over the prompts, by the name of the features.
    """

    images: np.ndarray
    reward: np.ndarray
    terms: dict[str, np.ndarray]
    heldout: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    diversity: dict[str, float]


@dataclass(frozen=True)
class Audit:
    """Everything that the page shows. skipped: the reason for each scorer that was left out."""

    base: Side
    tuned: Side
    prompts: tuple[Prompt, ...]
    skipped: dict[str, str]
    effects: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    explained: dict[str, tuple[float, float]]
    """R^2 by statistic and of "all together": for the base's reward and for the tuned one."""
    calibration: dict[str, tuple[dict[str, float], float]]
    """"base" and "tuned": mean reward by group of prompts, and the gap; {} without groups."""
    verdict: verdict.Verdict
    not_judged: dict[str, str]
    """The reason for each statistic or rule that the verdict leaves out."""
    shaping: tuple[str, ...] = ()
    """The features that the run's reward is shaped with."""


class Scorers:
    """The reward of a run, and every scorer that works here and that the run does not maximise."""

    def __init__(
        self,
        reward: RewardConfig,
        backend: Backend,
        wanted: Sequence[str] | None = None,
        *,
        suite: RewardSuite | None = None,
        evaluate: EvaluateConfig | None = None,
    ) -> None:
        """wanted: names of held-out scorers, all of which must work; None takes all that work.

        suite: the run's rewards, if they are loaded already. evaluate: also takes its `scorers`,
        where none are wanted, and measures diversity in its `features`; None measures none.

        Raises RewardNameError for a wanted scorer that cannot be made or that the run maximises.
        """
        self.suite = suite or RewardSuite(reward.terms, backend, reward)
        self.skipped: dict[str, str] = {}
        self._heldout = backend.scorer("heldout")
        self._features: dict[str, Features] = {}
        if evaluate is not None:
            for name in evaluate.features:
                self._features[name] = Features(name, backend, evaluate.options_of(name))
        self.maximised = held_out.maximised(reward)
        """Registered names of the rewards that the run maximises."""
        held_out.check(reward, wanted or ())
        self._suites: dict[str, RewardSuite] = {}
        usual = (*_others(self.maximised), *(evaluate.scorers if evaluate else ()))
        chosen = dict.fromkeys(usual if wanted is None else wanted)
        for name in chosen:
            try:
                self._suites[name] = held_out.suite(name, backend, reward)
            except RewardNameError as error:
                if wanted is not None:
                    raise
                self.skipped[name] = str(error)

    def can_read(self, prompts: Sequence[Prompt]) -> bool:
        """Whether the embedded held-out scorer knows every word of the prompts."""
        return self._heldout.can_read([prompt.text for prompt in prompts])

    def side(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Side:
        """Measure images uint8 [P, n, H, W, 3]. Raises RewardError when the run's reward fails."""
        shape, flat = images.shape[:2], images.reshape(-1, *images.shape[2:])
        repeated = [prompt for prompt in prompts for _ in range(shape[1])]
        texts = [prompt.text for prompt in repeated]
        metadata = [prompt.metadata for prompt in repeated]

        def describe(n: int) -> str:
            return f"prompt '{texts[n]}', image {n % shape[1]}"

        scores = self.suite.score(flat, texts, metadata, describe)
        terms = {name: values.reshape(shape) for name, values in scores.items()}
        heldout: dict[str, np.ndarray] = {}
        if self.can_read(prompts):
            heldout[HELD_OUT] = self._heldout.score(flat, texts).reshape(shape)
        for name, suite in list(self._suites.items()):
            try:
                unfit = getattr(suite.rewards[name].function, "unfit", None)
                if unfit is not None and (why := unfit(texts, deepcopy(metadata))):
                    raise RewardError(why)
                values = suite.score(flat, texts, metadata, describe)[name].reshape(shape)
                if statistics.spread(values) == 0:
                    raise RewardError(f"gives every image of a prompt the same: {values[0, 0]:g}")
                heldout[name] = values
            except RewardError as error:  # it cannot judge these prompts
                self.skipped[name] = str(error)
                del self._suites[name]
        spread: dict[str, float] = {}
        for name, extract in self._features.items():
            features = extract(flat).astype(np.float64).reshape(*shape, -1)
            distances = diversity.mean_pairwise(diversity.cosine_distances(features))
            spread[name] = float(distances.mean())
        measured = {name: statistic(flat).reshape(shape) for name, statistic in STATISTICS.items()}
        return Side(images, self.suite.reported(terms), terms, heldout, measured, spread)


def compare(
    base: Side,
    tuned: Side,
    prompts: Sequence[Prompt],
    *,
    skipped: Mapping[str, str],
    group_by: str | None,
    seed: int,
    maximised: Collection[str] = (),
    shaping: Collection[str] = (),
) -> Audit:
    """All numbers of an audit, without any model.

    group_by: a key of the prompts' metadata. maximised: registered names of the run's rewards; a
    statistic among them moves and explains the reward because it was asked to, so it is not judged.
    shaping: features that the run's reward is shaped with; others judge diversity, if there are.
    """
    before, after = _by_name(base), _by_name(tuned)
    names = [name for name in before if name in after]
    effects = {name: statistics.effect(before[name], after[name]) for name in names}
    key = Key(seed, Purpose.BOOTSTRAP)
    draws = random.generator(key).integers(len(prompts), size=(RESAMPLES, len(prompts)))
    both = {name: before[name] for name in names}
    explained = {
        name: (
            statistics.r_squared(base.reward, base.statistics[name]),
            statistics.r_squared(tuned.reward, tuned.statistics[name]),
        )
        for name in STATISTICS
    }
    left_out = _not_judged(maximised)
    explaining = {} if "explained reward" in left_out else explained
    judged = verdict.judge(
        reward=effects["reward"],
        heldout={name: effects[name] for name in base.heldout if name in tuned.heldout},
        drift={name: effects[name] for name in STATISTICS if name not in left_out},
        explained={n: after for n, (_, after) in explaining.items() if n not in left_out},
        diversity=_kept_diversity(base, tuned, shaping),
    )
    before_all, after_all = (
        statistics.r_squared(side.reward, *side.statistics.values()) for side in (base, tuned)
    )
    explained["all together"] = before_all, after_all
    return Audit(
        base,
        tuned,
        tuple(prompts),
        dict(skipped),
        effects,
        statistics.intervals(both, after, draws),
        explained,
        _calibration({"base": base, "tuned": tuned}, prompts, group_by),
        judged,
        left_out,
        tuple(shaping),
    )


def _kept_diversity(base: Side, tuned: Side, shaping: Collection[str]) -> float:
    """The share of the base model's diversity that is left, in the first features not shaping."""
    names = [name for name in base.diversity if name not in shaping] or [*base.diversity]
    before, after = (side.diversity[names[0]] for side in (base, tuned))
    return after / before if before > 0 else math.nan


def _not_judged(maximised: Collection[str]) -> dict[str, str]:
    asked = [IS_STATISTIC[name] for name in maximised if name in IS_STATISTIC]
    left_out = dict.fromkeys(asked, "the run maximises or minimises it")
    if asked and len(asked) == len(maximised):
        left_out[verdict.RULES["explained"].name] = "the whole reward is an image statistic"
    return left_out


def _calibration(
    sides: Mapping[str, Side], prompts: Sequence[Prompt], group_by: str | None
) -> dict[str, tuple[dict[str, float], float]]:
    """`statistics.calibration` of each side's reward; {} where no groups are asked for."""
    if group_by is None:
        return {}
    groups = [str(prompt.metadata.get(group_by, "-")) for prompt in prompts]
    return {name: statistics.calibration(side.reward, groups) for name, side in sides.items()}


def _by_name(side: Side) -> dict[str, np.ndarray]:
    return {"reward": side.reward, **side.heldout, **side.statistics}


def _others(maximised: Collection[str]) -> list[str]:
    """Names of the scorers that work here without options and that the run does not maximise."""
    return [
        info.name
        for info in REWARDS.available()
        if info.works and info.name not in {*maximised, *IS_STATISTIC, "remote"}
    ]

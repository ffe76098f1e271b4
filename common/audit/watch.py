"""Watches held-out scorers during a run: an alarm when one falls while the reward is maximised.

Its records are in `audits.jsonl`. The first one is of the base model; later effects are in units of
its means and spreads. Each record has the reward weights that training continues with, so that a
resumed run continues with the same.
"""

import math
import shlex
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.audit import statistics
from common.audit.measure import Scorers, Side
from common.backends import Backend
from common.config import Config
from common.prompts import Prompt
from common.rewards import RewardError, RewardSuite
from common.runs.directory import RunDirectory


class HackedError(RewardError):
    """The watch stopped a run; the message says which scorer fell, and by how much."""


class Watch:
    """Audits a run every so many updates; at an alarm it does what the configuration says.

    Raises RewardNameError for a scorer that cannot be made.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        prompts: Sequence[Prompt],
        suite: RewardSuite,
        run: RunDirectory,
    ) -> None:
        self._settings, self._suite, self._run = config.audit, suite, run
        self._prompts = prompts
        names = config.audit.scorers or config.evaluate.scorers
        self._scorers = Scorers(config.reward, backend, names, suite=suite)
        if not names and not self._scorers.can_read(prompts):
            raise ValueError(
                "audit.every: there is nothing to watch, since the embedded held-out scorer cannot "
                "read these prompts; name rewards in evaluate.scorers that the run does not "
                "maximise"
            )

    def stored_weights(self) -> dict[str, float]:
        """The reward weights that the last audit left; {} before the first one."""
        records = self._run.audits()
        return records[-1]["weights"] if records else {}

    def due(self, update: int) -> bool:
        """Whether an audit is due after this update and its record does not exist yet."""
        known = {record["update"] for record in self._run.audits()}
        return update % self._settings.every == 0 and update not in known

    def __call__(self, update: int, images: np.ndarray) -> None:
        """Audit `audit.images` images of each prompt, uint8 [P, n, H, W, 3].

        Raises HackedError at an alarm with action "stop", after the record is on disk.
        """
        side = self._scorers.side(images, self._prompts)
        records = self._run.audits()
        measured = {
            name: {"mean": float(values.mean()), "spread": statistics.spread(values)}
            for name, values in _watched(side).items()
        }
        base = records[0]["measured"] if records else measured
        effects = {name: _effect(base.get(name), now) for name, now in measured.items()}
        heldout = {name: effects[f"heldout/{name}"] for name in side.heldout}
        fell = {name: effect for name, effect in heldout.items() if not math.isnan(effect)}
        worst = min(fell, key=lambda name: fell[name], default="")
        alarm = bool(fell) and fell[worst] < -self._settings.tolerance
        weakened = self._weaken(effects) if alarm and self._settings.action == "weaken" else ""
        self._run.append_audit(
            {
                "update": update,
                "alarm": alarm,
                "effects": effects,
                "measured": measured,
                "weights": dict(self._suite.weights),
            }
        )
        if alarm:
            self._raise_alarm(f"update {update}: {_described(worst, fell[worst])}", weakened)

    def _weaken(self, effects: dict[str, float]) -> str:
        """Lower the weight of the term that rose most; returns its name, or ""."""
        weights = self._suite.weights
        rose = {
            name: math.copysign(1.0, weight) * effects[f"term/{name}"]
            for name, weight in weights.items()
            if weight and math.isfinite(effects[f"term/{name}"])
        }
        most = max(rose, key=lambda name: rose[name], default="")
        if most:
            weights[most] *= self._settings.factor
        return most

    def _raise_alarm(self, what: str, weakened: str) -> None:
        if self._settings.action == "stop":
            raise HackedError(
                f"{what}, more than audit.tolerance = {self._settings.tolerance:g}: stopped; the "
                f"checkpoint is saved, and `drift audit {shlex.quote(str(self._run.path))}` shows "
                "the images"
            )
        then = f"; {weakened} now weighs {self._suite.weights[weakened]:g}" if weakened else ""
        warnings.warn(f"{what}{then}", stacklevel=3)


def alarms(records: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence for each audit that was an alarm."""
    sentences = []
    for record in records:
        held_out = {k: v for k, v in record["effects"].items() if k.startswith("heldout/")}
        if record["alarm"]:
            name = min(held_out, key=lambda key: held_out[key])
            fall = _described(name.removeprefix("heldout/"), held_out[name])
            sentences.append(f"Audit after update {record['update']}: {fall}.")
    return sentences


def _watched(side: Side) -> dict[str, np.ndarray]:
    terms = {f"term/{name}": values for name, values in side.terms.items()}
    return {**terms, **{f"heldout/{name}": values for name, values in side.heldout.items()}}


def _effect(base: dict[str, float] | None, now: dict[str, float]) -> float:
    if base is None or not base["spread"] > 0:
        return math.nan
    return (now["mean"] - base["mean"]) / base["spread"]


def _described(name: str, effect: float) -> str:
    return f"the held-out scorer '{name}' is {-effect:.2f} of the base model's spreads below it"

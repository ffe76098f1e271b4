"""The page of an audit: one HTML file with its pictures; it computes no numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import pictures
from common.audit import statistics
from common.audit.measure import Audit
from common.audit.verdict import LOW_IS_BAD, RULES, Finding
from common.report import words

PICTURES = 12
"""Number of images on the page."""

SIDE = 128
"""Smaller images are enlarged to about this many pixels on a side."""


@dataclass(frozen=True)
class Row:
    """A line of a table, as text."""

    name: str
    base: str
    tuned: str
    effect: str
    interval: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Threshold:
    """One rule beside the value that was measured. level: the verdict on it."""

    name: str
    meaning: str
    value: str
    suspicious: str
    alarming: str
    level: str


@dataclass(frozen=True)
class Picture:
    """An image and that of the base model from the same noise, as data URIs."""

    prompt: str
    tuned: str
    base: str
    scores: str


def render(audit: Audit, *, title: str, facts: Sequence[str]) -> str:
    """The page as text. facts: short phrases on how the audit was made."""
    return words.template("audit.html.j2").render(
        style=words.style("report.css", "audit.css"),
        title=title,
        facts=facts,
        verdict=audit.verdict,
        thresholds=[_threshold(finding) for finding in audit.verdict.findings],
        scorers=[_row(audit, "reward"), *(_row(audit, n) for n in _held_out(audit))],
        statistics=[_row(audit, name) for name in audit.base.statistics],
        together=[f"{share:.0%}" for share in audit.explained["all together"]],
        diversity=[
            (name, before, audit.tuned.diversity[name], name in audit.shaping)
            for name, before in audit.base.diversity.items()
        ],
        calibration=_calibration(audit),
        pictures=_pictures(audit),
        skipped=audit.skipped,
        not_judged=audit.not_judged,
    )


def _row(audit: Audit, name: str) -> Row:
    sides = [
        {"reward": side.reward, **side.heldout, **side.statistics}[name]
        for side in (audit.base, audit.tuned)
    ]
    places = words.places(float(np.abs(sides[0]).mean()))
    base, tuned = (words.number(float(side.mean()), places) for side in sides)
    low, high = (words.number(bound, 2, signed=True) for bound in audit.intervals[name])
    shares = [f"{share:.0%}" for share in audit.explained.get(name, ())]
    effect = words.number(audit.effects[name], 2, signed=True)
    return Row(name, base, tuned, effect, f"{low} to {high}", *shares)


def _held_out(audit: Audit) -> list[str]:
    return [name for name in audit.base.heldout if name in audit.tuned.heldout]


def _threshold(finding: Finding) -> Threshold:
    rule = finding.rule
    low = next(key for key, each in RULES.items() if each is rule) in LOW_IS_BAD
    side = "below" if low else "above"

    def bound(limit: float) -> str:
        return f"{side} {words.number(limit, 2)}" if math.isfinite(limit) else "–"

    value = words.number(finding.value, 2) if not math.isnan(finding.value) else "not defined"
    about = f" ({finding.about})" if finding.about and not math.isnan(finding.value) else ""
    return Threshold(
        rule.name, rule.meaning, value + about, bound(rule.suspicious), bound(rule.alarming),
        finding.level,
    )  # fmt: skip


def _calibration(audit: Audit) -> dict[str, object]:
    if not audit.calibration:
        return {}
    (before, gap_before), (after, gap_after) = (
        audit.calibration[name] for name in ("base", "tuned")
    )
    places = words.places(float(np.abs(audit.base.reward).mean()))
    return {
        "groups": [
            (name, words.number(before[name], places), words.number(after[name], places))
            for name in before
        ],
        "gaps": [words.number(gap, 2) for gap in (gap_before, gap_after)],
    }


def _pictures(audit: Audit) -> list[Picture]:
    """The tuned images that the reward scores highest relative to the held-out scorers."""
    names = _held_out(audit)
    if not names:
        return []
    tuned = audit.tuned
    gap = statistics.disagreement(tuned.reward, [tuned.heldout[name] for name in names])
    order = np.argsort(-gap, axis=None, kind="stable")[:PICTURES]
    shown = []
    for place in order.tolist():
        p, i = divmod(place, gap.shape[1])
        scorers = [("reward", tuned.reward), *((name, tuned.heldout[name]) for name in names)]
        scores = [f"{name} {_scored(values, p, i)}" for name, values in scorers]
        uris = [_uri(side.images[p, i]) for side in (tuned, audit.base)]
        shown.append(Picture(audit.prompts[p].text, uris[0], uris[1], ", ".join(scores)))
    return shown


def _scored(values: np.ndarray, p: int, i: int) -> str:
    return words.number(float(values[p, i]), words.places(float(np.abs(values).mean())))


def _uri(image: np.ndarray) -> str:
    scale = max(1, SIDE // image.shape[0])
    return words.data_uri(pictures.grid(image[None, None], scale=scale))

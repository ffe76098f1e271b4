"""What GenEval asks of an image, answered from detected boxes: how much of it is there.

A detector gives boxes by name; everything here is arithmetic on them. Metadata is that of the set
`counting` (count, object, color), or GenEval's: `include` and `exclude`, lists of {class, count,
color, position: [relation, index of another]}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

DEAD_ZONE = 0.1
"""Share of the two boxes' sizes by which their centres must differ (GenEval's)."""


@dataclass(frozen=True)
class Box:
    """A thing that was found. corners: x0, y0, x1, y1 in pixels. color: one of COLORS."""

    corners: tuple[float, float, float, float]
    confidence: float
    color: str = ""


@dataclass(frozen=True)
class Clause:
    """One thing that was asked for. target: number of the clause that it stands beside."""

    name: str
    count: int = 1
    color: str = ""
    relation: str = ""
    target: int = -1


@dataclass(frozen=True)
class Question:
    """Everything that a prompt asks for, and what must not be there so often."""

    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @property
    def names(self) -> list[str]:
        """What to look for, each once."""
        return list(dict.fromkeys(clause.name for clause in (*self.include, *self.exclude)))

    @property
    def counts(self) -> bool:
        """Whether several of one thing are asked for."""
        return any(clause.count > 1 for clause in self.include)


def question(prompt: str, metadata: Mapping[str, Any]) -> Question:
    """What the metadata of a prompt asks for; ValueError in one line when it asks for nothing."""
    try:
        if "include" in metadata:
            include = tuple(_clause(part) for part in metadata["include"])
            exclude = tuple(_clause(part) for part in metadata.get("exclude", ()))
        else:
            include, exclude = (_clause({"class": metadata["object"], **metadata}),), ()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the prompt '{prompt}' has no 'object' and no valid 'include' in its metadata: "
            f"{type(error).__name__} {error}"
        ) from None
    for clause in include:
        if clause.color and clause.color not in COLORS:
            raise ValueError(f"color = '{clause.color}' of '{prompt}'; valid: {', '.join(COLORS)}")
        if clause.relation and (
            clause.relation not in RELATIONS or not 0 <= clause.target < len(include)
        ):
            raise ValueError(f"position = ['{clause.relation}', {clause.target}] of '{prompt}'")
    return Question(include, exclude)


def score(asked: Question, found: Mapping[str, Sequence[Box]]) -> float:
    """Share of what was asked for, in [0, 1]: the mean over clauses of the mean over their checks.

    A count of n instead of n* gives max(0, 1 - |n - n*| / n*) (Flow-GRPO's); a colour gives the
    share min(n_color, n*) / n*; a position gives 1 when the surest of both things stand that way.
    An excluded thing that is there too often counts as a clause of 0. How the checks are averaged
    is this toolkit's choice.
    """
    scores = []
    for clause in asked.include:
        boxes = found.get(clause.name, ())
        checks = [max(0.0, 1.0 - abs(len(boxes) - clause.count) / clause.count)]
        if clause.color:
            right = sum(box.color == clause.color for box in boxes)
            checks.append(min(right, clause.count) / clause.count)
        if clause.relation:
            others = found.get(asked.include[clause.target].name, ())
            both = bool(boxes) and bool(others)
            checks.append(float(both and clause.relation in relations(boxes[0], others[0])))
        scores.append(sum(checks) / len(checks))
    broken = [0.0 for c in asked.exclude if len(found.get(c.name, ())) >= c.count]
    return float(np.mean([*scores, *broken]))


def relations(a: Box, b: Box) -> set[str]:
    """How a stands to b: of the offset of centres, what exceeds DEAD_ZONE (w_a + w_b, h_a + h_b).

    A direction counts when its part of that is above half of the offset's length (GenEval's rule).
    """
    (centre_a, size_a), (centre_b, size_b) = (_centre(box) for box in (a, b))
    offset = centre_a - centre_b
    beyond = np.maximum(np.abs(offset) - DEAD_ZONE * (size_a + size_b), 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return {name for name, true in zip(RELATIONS, holds, strict=True) if true}


def kept(boxes: Sequence[Box], *, threshold: float, overlap: float) -> list[Box]:
    """Those above the threshold, the surest first, without those that overlap a surer one."""
    chosen: list[Box] = []
    for box in sorted(boxes, key=lambda box: -box.confidence):
        if box.confidence > threshold and all(iou(box, other) <= overlap for other in chosen):
            chosen.append(box)
    return chosen


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    low, high = np.maximum(a.corners[:2], b.corners[:2]), np.minimum(a.corners[2:], b.corners[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(_centre(box)[1])) for box in (a, b)]
    union = sum(areas) - both
    return both / union if union > 0 else 0.0


def _centre(box: Box) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.array(box.corners[:2]), np.array(box.corners[2:])
    return (low + high) / 2, np.maximum(high - low, 0)


def _clause(part: Mapping[str, Any]) -> Clause:
    relation, target = part.get("position") or ("", -1)
    count = int(part.get("count", 1))
    if count < 1:
        raise ValueError(f"count = {count}")
    return Clause(str(part["class"]), count, str(part.get("color", "")), str(relation), int(target))

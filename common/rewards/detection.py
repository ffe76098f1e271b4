"""The GenEval score of an image from detected boxes: the share of the request that is fulfilled.

A detector returns boxes by name; this module only computes with them. Metadata is that of the set
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
    """A detected object. corners: x0, y0, x1, y1 in pixels. color: one of COLORS."""

    corners: tuple[float, float, float, float]
    confidence: float
    color: str = ""


@dataclass(frozen=True)
class Clause:
    """One requested object. target: index of the clause that `relation` refers to."""

    name: str
    count: int = 1
    color: str = ""
    relation: str = ""
    target: int = -1


@dataclass(frozen=True)
class Question:
    """The objects that a prompt asks for, and those that must not appear so often."""

    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of all objects, each once."""
        return list(dict.fromkeys(clause.name for clause in (*self.include, *self.exclude)))

    @property
    def counts(self) -> bool:
        """Whether the prompt asks for several of one object."""
        return any(clause.count > 1 for clause in self.include)


def question(prompt: str, metadata: Mapping[str, Any]) -> Question:
    """The question in the metadata of a prompt; ValueError in one line when there is none."""
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


def score(asked: Question, boxes_by_name: Mapping[str, Sequence[Box]]) -> float:
    """Share of the request that is fulfilled, in [0, 1]: mean over clauses of their mean check.

    A count of n instead of n* gives max(0, 1 - |n - n*| / n*) (Flow-GRPO's); a colour gives the
    share min(n_color, n*) / n*; a position gives 1 when the most confident box of each object has
    that relation. An excluded object that appears too often counts as a clause of 0. The way the
    checks are averaged is this toolkit's choice.
    """
    scores = []
    for clause in asked.include:
        boxes = boxes_by_name.get(clause.name, ())
        checks = [max(0.0, 1.0 - abs(len(boxes) - clause.count) / clause.count)]
        if clause.color:
            right = sum(box.color == clause.color for box in boxes)
            checks.append(min(right, clause.count) / clause.count)
        if clause.relation:
            others = boxes_by_name.get(asked.include[clause.target].name, ())
            both = bool(boxes) and bool(others)
            checks.append(float(both and clause.relation in relations(boxes[0], others[0])))
        scores.append(sum(checks) / len(checks))
    broken = [0.0 for c in asked.exclude if len(boxes_by_name.get(c.name, ())) >= c.count]
    return float(np.mean([*scores, *broken]))


def relations(a: Box, b: Box) -> set[str]:
    """Relations of a to b, from the offset of centres beyond DEAD_ZONE (w_a + w_b, h_a + h_b).

    A direction counts when its component is above half of the offset's length (GenEval's rule).
    """
    (centre_a, size_a), (centre_b, size_b) = (_centre(box) for box in (a, b))
    offset = centre_a - centre_b
    beyond = np.maximum(np.abs(offset) - DEAD_ZONE * (size_a + size_b), 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return {name for name, true in zip(RELATIONS, holds, strict=True) if true}


def without_overlaps(boxes: Sequence[Box], *, threshold: float, overlap: float) -> list[Box]:
    """Boxes above the threshold, most confident first, minus those that overlap an earlier one."""
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

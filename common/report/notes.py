"""What a reader must know before the numbers of a comparison are believed."""

import shlex
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from common.choices import STANDING
from common.comparison import attainable as fronts, standing
from common.comparison.methods import Study
from common.comparison.summary import Summary
from common.evaluation import suggested
from common.evaluation.records import feature_name
from common.report import attainable, noise


def notes(summary: Summary, study: Study | None = None, paths: Sequence[Path] = ()) -> list[str]:
    """What to know before the numbers are believed, and what is not there.

    study, paths: what was compared, and what the user named, so that commands can be repeated; a
    page, which may be read elsewhere, has none of them.
    """
    attained = attainable.missing(summary, _attainable_command(summary, study))
    drift, lacking = noise.sentence(summary), _lacking(summary, paths)
    several = (_shaped(summary), drift, lacking, attained, _elsewhere(summary))
    return [note for note in several if note]


def without_intervals(summary: Summary) -> str:
    """Why the numbers of at most one seed have no intervals."""
    if not summary.seeds:
        return "No runs, so no seeds and no intervals."
    return "One seed: the spread between runs is unknown, so there are no intervals."


def _shaped(summary: Summary) -> str:
    if not summary.shaped:
        return ""
    others = [
        name
        for name in filter(None, map(feature_name, summary.protocol.labels.values()))
        if not any(name in those for those in summary.shaping.values())
    ]
    instead = (
        f"Choose others: --diversity {' or '.join(others)}."
        if others
        else "Measure with other features (evaluate.features)."
    )
    return (
        f"{' and '.join(summary.shaped)}: the reward is shaped with the features that diversity is "
        f"measured in here, so that its diversity is partly what it was trained on. {instead}"
    )


def _lacking(summary: Summary, paths: Sequence[Path]) -> str:
    """The standing baselines that were not measured, and the option that measures them; or ""."""
    words = standing.sentence(summary.unmeasured)
    names = [name for name in STANDING if name in {*chain(*summary.unmeasured.values())}]
    runs = shlex.join(map(str, paths)) or "RUN..."
    command = f"drift compare {runs} --with {','.join(names)}"
    return f"{words} `{command}` measures them." if words else ""


def _attainable_command(summary: Summary, study: Study | None) -> str:
    """The command that makes the attainable fronts that are not there; "" where none is known."""
    if study is None or not summary.unattainable:
        return ""
    there = fronts.find(study, summary.alignment, summary.diversity)
    if there.wanted is None:
        return ""
    paths = [run.path for run in there.missing]
    return suggested.attainable(paths, study.protocol, *there.wanted)


def _elsewhere(summary: Summary) -> str:
    """How images made elsewhere are compared; "" where there are none."""
    names = [method.name for method in summary.methods if method.made_elsewhere]
    if not names:
        return ""
    return (
        f"{' and '.join(names)}: images made elsewhere, without seeds or checkpoints. They are one "
        "point, the same for every seed, so that only the spread over prompts counts of it; "
        "between the base model and it a straight line counts."
    )

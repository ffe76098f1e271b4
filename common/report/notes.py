"""What a reader must know before the numbers of a comparison are believed."""

from itertools import chain

from common.choices import STANDING
from common.comparison import standing
from common.comparison.summary import Summary
from common.evaluation.records import feature_name
from common.report import attainable


def notes(summary: Summary) -> list[str]:
    """What to know before the numbers are believed, and what is not there."""
    attained = attainable.missing(summary)
    several = (_shaped(summary), _lacking(summary), attained, _elsewhere(summary))
    return [note for note in several if note]


def without_intervals(summary: Summary) -> str:
    """Why the numbers of at most one seed have no intervals."""
    if not summary.seeds:
        return "No runs, so no seeds and no intervals. "
    return "One seed: the spread between runs is unknown, so there are no intervals. "


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


def _lacking(summary: Summary) -> str:
    """The standing baselines that were not measured, and the option that measures them; or ""."""
    words = standing.sentence(summary.unmeasured)
    names = [name for name in STANDING if name in {*chain(*summary.unmeasured.values())}]
    command = f"drift compare RUN... --with {','.join(names)}"
    return f"{words} `{command}` measures them." if words else ""


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

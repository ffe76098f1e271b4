"""Standing baselines: methods at inference that any tuned model has without training.

A claim of diversity has to beat them: a smaller adapter, annealed importance guidance and
CADS, each at a few values, on the last compared checkpoint of every run.
"""

from collections.abc import Iterable, Mapping, Sequence

from common.choices import STANDING, Standing
from common.comparison.methods import Method
from common.errors import listed
from common.evaluation.measured_runs import Run
from common.evaluation.records import Variant

VALUES: dict[Standing, tuple[float, ...]] = {
    "scale": (0.25, 0.5, 0.75),
    "aig": (1.0, 2.0, 4.0),
    "cads": (0.05, 0.1, 0.25),
}
"""Values that are measured, this toolkit's choice. scale: between the base model, 0, and the tuned
one, 1, which are measured anyway. aig: those of the authors' program. cads: a quarter is much."""

FIELDS: dict[Standing, str] = {"scale": "scale", "aig": "aig", "cads": "prompt_noise"}
"""The field of a variant that each baseline sets."""

NAMES: dict[Standing, str] = {"scale": "adapter scale", "aig": "AIG", "cads": "CADS"}
"""Their names in tables."""


def variants(run: Run, which: Iterable[Standing]) -> list[Variant]:
    """The baselines of a run: those of its last measured checkpoint, at every value."""
    update = max(variant.update for variant in run.records)
    return [Variant(update, **{FIELDS[name]: value}) for name in which for value in VALUES[name]]


def unmeasured(methods: Iterable[Method]) -> dict[str, list[Standing]]:
    """The baselines that a method lacks, by the method's name; only methods that lack one."""
    lacking = {}
    for method in methods:
        if any(variant.changes for strength in method.strengths for variant in strength.variants):
            continue
        runs = [run for strength in method.strengths for run in strength.runs]
        names = [name for name in STANDING if not all(_has(run, name) for run in runs)]
        if names:
            lacking[method.name] = names
    return lacking


def sentence(lacking: Mapping[str, Sequence[str]]) -> str:
    """What `unmeasured` gives, in words; "" where nothing lacks."""
    by_names: dict[str, list[str]] = {}
    for method, names in lacking.items():
        words = listed(NAMES[name] for name in STANDING if name in names)
        by_names.setdefault(words, []).append(method)
    parts = [f"{words} of {' and '.join(methods)}" for words, methods in by_names.items()]
    return f"Standing baselines that were not measured: {'; '.join(parts)}." if parts else ""


def _has(run: Run, name: Standing) -> bool:
    return any(_sets(variant, name) for variant in run.records if variant.update)


def _sets(variant: Variant, name: Standing) -> bool:
    return getattr(variant, FIELDS[name]) != getattr(Variant(0), FIELDS[name])

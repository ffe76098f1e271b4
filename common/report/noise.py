"""What neutral runs say of a comparison, in words and numbers."""

from common.comparison.noise import AIM, FIT, Moved, Noise
from common.comparison.summary import Summary
from common.report import noise_plot, words
from common.report.front import measure_name

NONE = "none"
"""The cell of a method that was not measured when the neutral runs end."""


def sentence(summary: Summary) -> str:
    """Whether noise leaves a setting fit for claims, and what is to be done if not; or ""."""
    noise, baseline = summary.noise, summary.baseline
    if noise is None:
        return ""
    fit, several = noise.fit(baseline), len(noise.runs) > 1
    parts = [
        f"{measure_name(name)} "
        + (f"(which {baseline} does not)" if share is None else f"by {percent(share)}")
        for name, share in noise.shares(baseline).items()
    ]
    runs, updates = (
        words.count(len(noise.runs), "neutral run"),
        words.count(noise.updates, "update"),
    )
    return (
        f"{'Fit' if fit else 'Not fit'} to show what a reward does: {runs} of {updates} "
        f"move{'' if several else 's'} {', '.join(parts)} of what {baseline} moves; "
        f"less than {FIT:.0%} is fit, {AIM:.0%} the aim."
        f"{'' if fit else ' A lower learning rate with more updates, or more samples, helps.'}"
        f"{'' if several else ' Several are needed: they differ.'}"
    )


def title(noise: Noise) -> tuple[str, str]:
    """The title of the table and what its numbers mean."""
    names = [measure_name(name) for name in noise.measures]
    what = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        "Drift by noise alone",
        f"how far {what} move in {words.count(noise.updates, 'update')} without any reward "
        "(mean, lowest and highest neutral run), and with the reward of each method (and what "
        "share of that noise moves)",
    )


def rows(summary: Summary, noise: Noise) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, (movement, spread or share) of each measure): noise first, then each curve."""
    runs = words.count(len(noise.runs), "neutral run")
    alone = []
    for drift in noise.drift:
        spread = f"{_moved(summary, drift.measure, drift.low)} to " + _moved(
            summary, drift.measure, drift.high
        )
        alone.append((_moved(summary, drift.measure, drift.mean), spread))
    if len(noise.runs) == 1:
        alone = [(mean, "") for mean, _ in alone]
    shown = [(f"{noise_plot.NAME}, {runs}", alone)]
    for method in summary.methods:
        for number, strength in enumerate(method.strengths):
            these = [m for m in noise.moved if (m.method, m.strength) == (method.name, number)]
            if these:
                name = f"{method.name}, {strength.label}" if strength.label else method.name
                shown.append((name, [_cell(summary, noise, each) for each in these]))
    return shown


def percent(share: float) -> str:
    """A share without sign: 8%, 310%, over 1000%."""
    return f"{share:.0%}" if share <= 10 else "over 1000%"


def _cell(summary: Summary, noise: Noise, moved: Moved) -> tuple[str, str]:
    if moved.moved is None:
        return NONE, f"not measured at update {noise.updates}"
    share = "does not move" if moved.share is None else f"noise {percent(moved.share)}"
    return _moved(summary, moved.measure, moved.moved), share


def _moved(summary: Summary, measure: str, value: float) -> str:
    return words.number(value, words.places(summary.base[measure]), signed=True)

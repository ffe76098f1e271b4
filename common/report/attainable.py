"""What the attainable fronts say, in words and numbers: for a terminal and for pages."""

from typing import Any

from common.comparison.attainable_shares import Attainable, Share
from common.comparison.summary import Summary
from common.errors import listed
from common.evaluation import attainable_records
from common.evaluation.attainable_records import REWARD, SHARES, AxisLevels, Solved
from common.report import words
from common.report.front import measure_name
from common.runs.directory import RunDirectory

NOTHING = "nothing to win here with this model, reward and feature"
TO_WIN = "how much there is to win: "


def in_features(label: str) -> str:
    """The features in words, for the end of a phrase; "" for the model's own."""
    return f", in the features {label}" if label else ""


def sentence(front: Solved, axis: str) -> str:
    """How much there is to win on an axis, in one sentence without its full stop."""
    levels = front.axes[axis]
    name = measure_name(axis)
    if not levels.level:
        return f"{NOTHING}: no weights raise {name} above the base model's"
    clear = [share for share in SHARES if levels.clear(levels.at(share))]
    if not clear:
        return (
            f"{NOTHING}: within its interval the best front has no more diversity at equal {name} "
            "than the KL front"
        )
    share = max(clear, key=lambda share: levels.gain.value[levels.at(share)] or 0.0)
    gain = _percent(levels.gain.value, levels.at(share))
    return (
        f"{TO_WIN}at equal {name} up to {gain} diversity ({_interval(levels, share)}) over the "
        f"best that KL regularisation gives, at {share:.0%} of the range of {name}"
    )


def basis(front: Solved | Attainable) -> str:
    """N, c and the intervals, which every table and plot of a front names."""
    left_out = f", {front.left_out} of them left out" if front.left_out else ""
    return (
        f"N = {front.samples} images of each prompt{left_out}, none more than c = {front.ratio:g} "
        f"times as likely as under the base model; {front.confidence:.0%} intervals over images"
    )


def caption(summary: Summary) -> str:
    """What the dashed curves of a comparison are; "" where there are none."""
    if summary.attainable is None:
        return ""
    return (
        " Dashed, with bands: what is possible at most by re-weighting what the base model draws, "
        "and below it by KL regularisation. " + basis(summary.attainable) + "."
    )


def missing(summary: Summary, command: str = "") -> str:
    """Why a comparison has no fronts although some of its runs have; "" where they all agree.

    command: the one that makes them; "" where no paths are known.
    """
    if not summary.unattainable:
        return ""
    form = f"drift eval RUN --attainable --split {summary.protocol.split}"
    return (
        f"no attainable fronts: {listed(summary.unattainable)} have none that the other runs have "
        f"too on these axes (`{command or form}` makes them)"
    )


def of_run(run: RunDirectory) -> list[tuple[str, str, str]]:
    """(prompts and features, how much there is to win, N and c) of a run's fronts, for its report.

    Of several N and c for the same prompts and features the last that was made counts.
    """
    try:
        stored = attainable_records.load(run)
    except attainable_records.RecordError as error:
        return [("not readable", str(error), "")]
    latest = {}
    for entry in stored.entries:
        prompts = words.count(len(entry.images.prompts), f"{entry.images.split} prompt")
        for front in entry.fronts:
            if front.rewards == REWARD:
                latest[f"{prompts}{in_features(front.features)}"] = front
    return [
        (title, sentence(front, REWARD).removeprefix(TO_WIN), f"{basis(front)}.")
        for title, front in latest.items()
    ]


def share_texts(share: Share) -> tuple[str, str]:
    """A cell of the table of shares: the share, and both fronts; or none, and why."""
    if share.estimate is None:
        return "none", share.why or ""
    between = f"{share.value:.3f} between {share.kl:.3f} and {share.best:.3f}"
    return f"{share.estimate:.0%}".replace("-", "−"), between


def rows(front: Solved, axis: str) -> list[dict[str, str]]:
    """The table of a terminal: a row for each of SHARES; [] where there are no levels."""
    levels = front.axes[axis]
    name = measure_name(axis)
    return [
        {
            "of the range": f"{share:.0%}",
            name: _number(levels.level, n),
            "KL diversity": _number(levels.kl.value, n, 3),
            "best diversity": _number(levels.best.value, n, 3),
            "gain": _percent(levels.gain.value, n) if levels.clear(n) else "within intervals",
            "interval": _interval(levels, share),
            "from halves": _percent(levels.halves, n),
        }
        for share, n in _levels(levels)
    ]


def numbers(front: Solved, axis: str) -> list[dict[str, Any]]:
    """The same as numbers, None where there is none."""
    levels = front.axes[axis]
    return [
        {
            "share": share,
            "level": levels.level[n],
            "kl": levels.kl.value[n],
            "best": levels.best.value[n],
            "gain": levels.gain.value[n],
            "low": levels.gain.low[n],
            "high": levels.gain.high[n],
            "halves": levels.halves[n],
            "clear": levels.clear(n),
        }
        for share, n in _levels(levels)
    ]


def _levels(levels: AxisLevels) -> list[tuple[float, int]]:
    """Each of SHARES with the number of its level; [] where there are no levels."""
    return [(share, levels.at(share)) for share in SHARES] if levels.level else []


def _interval(levels: AxisLevels, share: float) -> str:
    n = levels.at(share)
    return f"{_percent(levels.gain.low, n)} to {_percent(levels.gain.high, n)}"


def _percent(values: list[float | None], number: int) -> str:
    value = values[number]
    return "-" if value is None else words.percent(value)


def _number(
    values: list[float] | list[float | None], number: int, places: int | None = None
) -> str:
    value = values[number]
    if value is None:
        return "-"
    return words.number(value, words.places(value) if places is None else places)

"""The page of a comparison: tables, plot and pictures.

All numbers come from the summary; only the pictures are read from the runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import pictures
from common.comparison.methods import Study
from common.comparison.summary import MATCHED, Point, Summary, to_json
from common.evaluation.measured_runs import BASE, Images, Run
from common.evaluation.records import FILE, IMAGES, Variant, feature_name
from common.report import attainable, front, gain_tables, notes, other_axes, words
from common.runs import files

MOST_PROMPTS = 6
"""Number of prompts with pictures for each method."""


@dataclass(frozen=True)
class Panel:
    """Pictures of one method: (prompt, data URI) for each row. note: why there are none."""

    name: str
    detail: str
    rows: list[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True)
class Setup:
    """A configuration: (key, value, the baseline's where it differs) with the differences first."""

    name: str
    runs: str
    settings: list[tuple[str, str, str | None]]


def build(summary: Summary, study: Study, out: Path) -> list[Path]:
    """Write compare.json, front.svg, front.png and compare.html into a folder.

    Returns their paths, the page last. Raises files.WriteError when they cannot be written.
    """
    plots = front.files(summary)
    contents = {
        "compare.json": to_json(summary).encode(),
        "front.svg": plots["svg"],
        "front.png": plots["png"],
        "compare.html": render(summary, panels(summary, study)).encode(),
    }
    return write(contents, out)


def write(contents: Mapping[str, bytes], out: Path) -> list[Path]:
    """Write files into a folder; their paths. Raises files.WriteError."""
    with files.os_errors_as(f"write to {out}"):
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write_whole(out / name, content)
    return [out / name for name in contents]


def render(summary: Summary, shown: list[Panel]) -> str:
    """The page as text: HTML with its style, plot and pictures inside."""
    return words.template("compare.html.j2").render(
        style=words.style("report.css", "compare.css"),
        summary=summary,
        facts=_facts(summary),
        marks=front.marks(summary),
        views=front.views(summary),
        caption=_caption(summary),
        limits=front.limit_marks(summary),
        alone=front.noise_marks(summary),
        others=other_axes.plots(summary),
        notes=notes.notes(summary),
        tables=gain_tables.tables(summary),
        reading=_reading(summary),
        panels=shown,
        pictures_lead=_pictures_lead(summary),
        setups=_setups(summary),
    )


# --- words ----------------------------------------------------------------------------------------


def _facts(summary: Summary) -> list[str]:
    protocol = summary.protocol
    return [
        f"baseline {summary.baseline}",
        f"{words.count(len(protocol.prompts), f'{protocol.split} prompt')}",
        f"{words.count(protocol.images, 'image')} of each",
        words.count(len(summary.seeds), "seed") if summary.seeds else "no runs",
        f"{front.measure_name(summary.alignment)} against {front.measure_name(summary.diversity)}",
        *_features(summary),
    ]


def _features(summary: Summary) -> list[str]:
    """The features that are measured in, those that shape a reward marked; [] without a choice."""
    facts = []
    for suffix, label in summary.protocol.labels.items():
        shaped = [name for name, those in summary.shaping.items() if feature_name(label) in those]
        mark = f" (shapes the reward of {' and '.join(shaped)})" if shaped else ""
        head = "" if suffix else "features "
        facts.append(f"{head}{label or 'of the held-out scorer'}{mark}")
    known = any(summary.protocol.labels.values())
    return [", ".join(facts)] if known else []


def _caption(summary: Summary) -> str:
    curve = (
        "Lines join the Pareto front of each method; its other points are pale."
        if summary.reading == "front"
        else "Lines follow each strength through its checkpoints."
    )
    gain = f"{summary.baseline}'s gain in alignment, and of " if summary.gained else ""
    return (
        f"Right is better aligned, up is more diverse. {curve} Dotted, where a curve reaches them: "
        f"shares of {gain}the base model's diversity. Hover or focus a point for its values."
        f"{attainable.caption(summary)}{_noise_caption(summary)}"
    )


def _noise_caption(summary: Summary) -> str:
    if summary.noise is None:
        return ""
    return (
        " Grey: where noise alone goes, the mean of runs whose reward is a control, and pale where "
        "each of them ends. It is no method, and no gain is read from it."
    )


def _pictures_lead(summary: Summary) -> str:
    where = (
        f"the alignment at which {summary.baseline} has {MATCHED:.0%} of its gain"
        if summary.gained
        else f"the base model's alignment, over which {summary.baseline} gained nothing"
    )
    elsewhere = [method.made_elsewhere for method in summary.methods]
    noise = "" if all(elsewhere) else " from the same initial noise"
    same = f"The same prompts{', of runs' if any(elsewhere) and noise else ''}{noise}."
    return f"{same} For each method the point nearest to {where}."


def _reading(summary: Summary) -> str:
    count = summary.replicas
    intervals = (
        f"Below each number its {summary.confidence:.0%} interval: {count:,} bootstrap draws of "
        "seeds, then prompts, the same for every method, widened for the small number of seeds."
        if len(summary.seeds) > 1
        else notes.without_intervals(summary)
    )
    choice = (
        "Values are read from the Pareto front, linear between its points. These points are the "
        "best of noisy measurements, so a front is a little too high, and more so with more points."
        if summary.reading == "front"
        else "Values are read where the path over the checkpoints first reaches a level."
    )
    alone = " The table of noise alone has no intervals." if summary.noise else ""
    text = f"{intervals} {choice} A level that a curve does not reach is never extrapolated."
    return f"{text}{alone}"


# --- pictures -------------------------------------------------------------------------------------


def panels(summary: Summary, study: Study) -> list[Panel]:
    """Pictures of the base model and of each method at matched alignment, of the first seed."""
    baseline = study.method(summary.baseline).strengths[0].measured[0]
    origin = f"before tuning: alignment {summary.origin[0]:.2f}, diversity {summary.origin[1]:.3f}"
    shown = [panel("base model", origin, baseline, BASE)]
    for name, point in summary.matched().items():
        run = study.method(name).strengths[point.strength].measured[0]
        variant = IMAGES
        if point.update is not None:
            variant = Variant(point.update, point.scale, point.prompt_noise, point.aig)
        shown.append(panel(name, _detail(summary, name, point), run, variant))
    return shown


def _detail(summary: Summary, name: str, point: Point) -> str:
    alignment, diversity = summary.axes(point)
    which = front.point_name(summary.method(name), point)
    return f"{which}: alignment {alignment:.2f}, diversity {diversity:.3f}"


def panel(name: str, detail: str, run: Run | Images, variant: Variant) -> Panel:
    """The pictures of what was measured, or why there are none."""
    record = run.records[variant]
    prompts = record.protocol.prompts
    if record.grid is None:
        return Panel(name, detail, [], "No picture was kept.")
    try:
        picture = pictures.load_inside(run.path / FILE.parent, record.grid)
        strips = pictures.rows(picture, len(prompts))
    except pictures.PictureError as error:
        return Panel(name, detail, [], f"The picture {record.grid} {error}.")
    except ValueError:
        return Panel(
            name, detail, [], f"The picture {record.grid} does not have one row per prompt."
        )
    shown = list(zip(prompts, strips, strict=True))[:MOST_PROMPTS]
    return Panel(name, detail, [(prompt, words.data_uri(strip)) for prompt, strip in shown])


# --- configurations -------------------------------------------------------------------------------


def _setups(summary: Summary) -> list[Setup]:
    setups = []
    for method in summary.methods:
        if method.made_elsewhere:
            setups.append(Setup(method.name, "images made elsewhere", []))
            continue
        for strength in method.strengths:
            label = f"{method.name}, {strength.label}" if strength.label else method.name
            runs = ", ".join(f"seed {run.seed}" for run in strength.runs)
            backends = " and ".join(sorted({run.backend for run in strength.runs}))
            updates = max(run.updates for run in strength.runs)
            changed = [
                (key, words.plain(value), words.plain(summary.settings.get(key)))
                for key, value in strength.changes.items()
            ]
            same = [
                (key, words.plain(value), None)
                for key, value in summary.settings.items()
                if key not in strength.changes
            ]
            text = f"{runs} · {backends} · {words.count(updates, 'update')}"
            setups.append(Setup(label, text, [*changed, *same]))
    return setups

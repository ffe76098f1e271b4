"""Fill the tables and plots of docs/results*.md and docs/noise.md from docs/results/*.json.

    python -m scripts.make_results            # or: make results
    python -m scripts.make_results --check    # exit code 1 when the page does not fit the data

A comparison is what `drift compare --out DIR` writes as DIR/compare.json. In the page

    <!-- results: NAME PART -->
    anything
    <!-- end -->

stands for a part of docs/results/NAME.json: `gains` (every table of the comparison), `shares` (the
table of the attainable gain), `drift` (the table of what noise alone moves), `points` (each
method's checkpoints), `protocol` (how it was measured), `front` (the plot) or `course` (the plot of
what noise moves over the updates). Two more parts have their own files: `search`, strengths on
validation prompts, and `backends`, the same run on two backends.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from common.comparison.noise import Noise
from common.comparison.summary import Summary, from_json
from common.report import front, gain_tables, noise, words
from common.runs import files
from scripts import noise_course
from scripts.markdown import table

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("results.md", "results_earlier.md", "noise.md")
BLOCK = re.compile(r"(<!-- results: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when anything would change.")
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, show_default=False)
def main(check: bool, docs: Path) -> None:
    """Rebuild the pages and their plots from the stored comparisons."""
    pages = {
        path: path.read_text(encoding="utf-8") for name in PAGES if (path := docs / name).exists()
    }
    filled_pages = {path: filled(text, docs / "results") for path, text in pages.items()}
    if check:
        sys.exit(pages != filled_pages)
    for path, text in filled_pages.items():
        for kind, plot in PLOTS.items():
            for name in names(text, kind):
                file = docs / "results" / f"{name}.svg"
                files.write_whole(file, plot(read(docs / "results", name))["svg"])
        files.write_whole(path, text.encode())


def names(text: str, kind: str) -> list[str]:
    """The names of the stored results in blocks of that kind, sorted."""
    return sorted({match[2] for match in BLOCK.finditer(text) if match[3] == kind})


def filled(text: str, folder: Path) -> str:
    """The page with every block rebuilt from the comparisons in the folder."""
    return BLOCK.sub(lambda match: match[1] + part(folder, match[2], match[3]) + match[4], text)


def part(folder: Path, name: str, kind: str) -> str:
    """The text of one block. Raises click.ClickException for an unknown kind."""
    if kind in OTHERS:
        return OTHERS[kind](json.loads((folder / f"{name}.json").read_bytes()))
    summary = read(folder, name)
    if kind == "front":
        return f"![{front.alt_text(summary)}](results/{name}.svg)\n"
    if kind == "course":
        return f"![{noise_course.alt_text(summary, _noise(name, summary))}](results/{name}.svg)\n"
    if kind not in PARTS:
        raise click.ClickException(
            f"results: '{kind}' is none of front, course, {', '.join(PARTS)}"
        )
    return PARTS[kind](summary)


def read(folder: Path, name: str) -> Summary:
    """A stored comparison."""
    return from_json((folder / f"{name}.json").read_bytes())


def gains(summary: Summary) -> str:
    """Every table of the comparison, with intervals after the numbers."""
    return _tables(gain_tables.tables(summary))


def shares(summary: Summary) -> str:
    """The table of what share of the attainable gain each method has."""
    return _tables(gain_tables.shares(summary))


def drift(summary: Summary) -> str:
    """The table of what noise alone moves, and whether the setting is fit."""
    return _tables(gain_tables.drift(summary)) + "\n" + noise.sentence(summary) + "\n"


def _course(summary: Summary) -> dict[str, bytes]:
    return noise_course.files(summary, _noise("course", summary))


def _noise(name: str, summary: Summary) -> Noise:
    if summary.noise is None:
        raise click.ClickException(f"{name}: the comparison has no neutral runs")
    return summary.noise


def _tables(tables: Sequence[gain_tables.Table]) -> str:
    return "\n".join(
        f"**{each.title}**, {each.meaning}\n\n"
        + table(
            ["method", *each.columns],
            [[row.method, *(cell.line for cell in row.cells)] for row in each.rows],
        )
        + "\n"
        for each in tables
    )


def points(summary: Summary) -> str:
    """The base model and each method's checkpoints, means over seeds and prompts."""
    shown = {
        summary.alignment: 2,
        summary.diversity: 3,
        "reward": 2,
        "alignment_heldout": 2,
        "vendi": 2,
        "modes": 2,
        "high_frequency": 3,
        "frechet": 3,
        "coverage": 2,
    }
    rows = [["base model", "", *(words.number(summary.base[m], n) for m, n in shown.items())]]
    for method in summary.methods:
        rows += [
            [
                method.name,
                front.point_name(method, point),
                *(words.number(point.measures[m], n) for m, n in shown.items()),
            ]
            for point in method.points
        ]
    header = ["method", "point", *(front.NAMES.get(m, m.replace("_", " ")) for m in shown)]
    return table(header, rows) + "\n"


def protocol(summary: Summary) -> str:
    """The protocol as a list."""
    how = summary.protocol
    reward = ", ".join(f"{weight:g} x {name}" for name, weight in summary.reward.items())
    facts = {
        "prompts": f"{len(how.prompts)} of the {how.split} split: {', '.join(how.prompts)}",
        "images": f"{how.images} of each prompt along {how.steps} ODE steps, noise seed {how.seed}",
        "training seeds": ", ".join(map(str, summary.seeds)),
        "reward": reward,
        "intervals": f"{summary.confidence:.0%}, {summary.replicas:,} draws",
    }
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def search(data: dict[str, Any]) -> str:
    """Every checkpoint of a search, and its diversity against plain GRPO's at equal alignment.

    Plain GRPO is read off between its checkpoints along the path, and never beyond its ends.
    """
    baseline = next(run for run in data["runs"] if run["setting"] == data["baseline"])
    path = sorted((p["alignment"], p["diversity"]) for p in [data["base"], *baseline["points"]])
    known, diversities = zip(*path, strict=True)
    rows = []
    for run in data["runs"]:
        for point in run["points"]:
            at = point["alignment"]
            inside = known[0] <= at <= known[-1] and run is not baseline
            gain = point["diversity"] / np.interp(at, known, diversities) - 1
            rows.append(
                [
                    run["setting"],
                    str(point["update"]),
                    f"{at:.2f}",
                    f"{point['diversity']:.3f}",
                    f"{gain:+.1%}".replace("-", "−") if inside else "",
                    f"{point['high_frequency']:.4f}",
                ]
            )
    base = data["base"]
    first = ["base model", "", f"{base['alignment']:.2f}", f"{base['diversity']:.3f}", ""]
    header = ["setting", "updates", "held-out alignment", "diversity", "at equal alignment"]
    rows = [[*first, f"{base['high_frequency']:.4f}"], *rows]
    return data["protocol"] + "\n\n" + table([*header, "high frequency"], rows) + "\n"


def twins(data: dict[str, Any]) -> str:
    """The same run on two backends: the largest difference of its curves, and where it ends."""
    (one, first), (other, second) = data.items()
    rows = []
    for key, values in first["curves"].items():
        a, b = np.array(values), np.array(second["curves"][key])
        rows.append([key, f"{np.max(np.abs(a - b) / np.abs(a)):.1e}"])
    updates = len(first["curves"]["reward/mean"])
    curves = table([f"curve of {updates} updates", "largest relative difference"], rows)
    names = list(first["point"])
    points = [[name, *(f"{data[name]['point'][k]:.4f}" for k in names)] for name in (one, other)]
    ends = table(["backend", *(n.replace("_", " ") for n in names)], points)
    return f"{curves}\n\n{ends}\n"


PARTS: dict[str, Callable[[Summary], str]] = {
    "gains": gains,
    "shares": shares,
    "drift": drift,
    "points": points,
    "protocol": protocol,
}
PLOTS: dict[str, Callable[[Summary], dict[str, bytes]]] = {"front": front.files, "course": _course}
OTHERS: dict[str, Callable[[dict[str, Any]], str]] = {"search": search, "backends": twins}

if __name__ == "__main__":
    main()

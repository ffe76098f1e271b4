"""Fill the tables and plots of docs/results.md from the comparisons stored in docs/results/.

    python scripts/make_results.py            # or: make results
    python scripts/make_results.py --check    # exit code 1 when the page is not that of the data

A comparison is what `drift compare --out DIR` writes as DIR/compare.json. In the page

    <!-- results: NAME PART -->
    anything
    <!-- end -->

stands for a part of docs/results/NAME.json: `gains` (every table of the comparison), `points`
(each method's checkpoints), `protocol` (how it was measured) or `front` (the plot).
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from common import files
from common.report import comparison, front, words
from common.study.summary import Summary, from_json

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(<!-- results: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when anything would change.")
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, show_default=False)
def main(check: bool, docs: Path) -> None:
    """Rebuild docs/results.md and its plots from the stored comparisons."""
    page = docs / "results.md"
    before = page.read_text(encoding="utf-8")
    after = filled(before, docs / "results")
    if check:
        sys.exit(before != after)
    for name in names(before):
        plot = front.files(read(docs / "results", name))["svg"]
        files.write_whole(docs / "results" / f"{name}.svg", plot)
    files.write_whole(page, after.encode())


def names(text: str) -> list[str]:
    """The comparisons that a page shows, sorted."""
    return sorted({match[2] for match in BLOCK.finditer(text)})


def filled(text: str, folder: Path) -> str:
    """The page with every block made anew from the comparisons in the folder."""
    return BLOCK.sub(
        lambda match: match[1] + part(read(folder, match[2]), match[2], match[3]) + match[4], text
    )


def part(summary: Summary, name: str, kind: str) -> str:
    """One block. Raises click.ClickException for a kind that there is not."""
    if kind == "front":
        return f"![{front.spoken(summary)}](results/{name}.svg)\n"
    if kind not in PARTS:
        raise click.ClickException(f"results.md: '{kind}' is none of front, {', '.join(PARTS)}")
    return PARTS[kind](summary)


def read(folder: Path, name: str) -> Summary:
    """A stored comparison."""
    return from_json((folder / f"{name}.json").read_bytes())


def gains(summary: Summary) -> str:
    """Every table of the comparison, intervals behind the numbers."""
    return "\n".join(
        f"**{table.title}**, {table.meaning}\n\n"
        + markdown(
            ["method", *table.columns],
            [[row.method, *map(told, row.cells)] for row in table.rows],
        )
        for table in comparison.tables(summary)
    )


def told(cell: comparison.Cell) -> str:
    """A number with what is said about it."""
    return f"{cell.text} ({cell.detail})" if cell.detail else cell.text


def points(summary: Summary) -> str:
    """The base model and each method's checkpoints, means over seeds and prompts."""
    shown = {
        summary.alignment: 2,
        summary.diversity: 3,
        "reward": 2,
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
    return markdown(header, rows)


def protocol(summary: Summary) -> str:
    """How it was measured, in one list."""
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


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PARTS: dict[str, Callable[[Summary], str]] = {
    "gains": gains,
    "points": points,
    "protocol": protocol,
}

if __name__ == "__main__":
    main()

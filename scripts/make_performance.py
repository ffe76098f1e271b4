"""Fill docs/performance.md from what `scripts/gpu_bench.sh` and `scripts/bench_peers.py` measured.

    python -m scripts.make_performance            # or: make results
    python -m scripts.make_performance --check    # exit code 1 when anything would change

Every document of a full run in docs/results/gpu/ counts; of each row the newest one that was done.
In the page `<!-- performance: NAME -->` to `<!-- end -->` is a table of TABLES, or one of
`scripts/peers/tables.py` from the parts in docs/results/peers/. A row without a measurement says
"not measured".
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from common.runs import files
from scripts.gpu_bench.rows import ROWS
from scripts.markdown import span, table
from scripts.peers import tables

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- performance: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NONE = "not measured"

Measured = dict[str, dict[str, Any]]
"""Row name -> its outcome, with the `machine` of its document."""

SHOWS = {
    "sd3-fast": ("no guidance, CPS, three trained steps", "4 images/s"),
    "sd3-fast-compiled": ("`torch.compile`, and its warm-up", ""),
    "sd3-grpo": ("10 steps, guidance 4.5, KL, LoRA rank 32", "1.0 image/s, peak under 60 GB"),
    "sd3-grpo-compiled": ("`torch.compile`, and its warm-up", ""),
    "sd15-24gb": ("50 steps, guidance 5, offloading", "peak under 22 GB"),
    "sd3-24gb": ("gradient checkpointing, offloading", "peak under 22 GB"),
    "flux": ("6 steps, guidance embedded, LoRA rank 64, offloading", ""),
}
"""The meaning of each row of a model, and its aim on one H100."""


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when anything would change.")
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, show_default=False)
def main(check: bool, docs: Path) -> None:
    """Rebuild the tables of docs/performance.md."""
    page = docs / "performance.md"
    before = page.read_text(encoding="utf-8")
    after = filled(before, docs / "results")
    if check:
        sys.exit(before != after)
    peers = docs / "results" / tables.FOLDER
    parts = tables.read(peers)
    if any(name.startswith("growth-") for name in parts):
        files.write_whole(peers / tables.PLOT, tables.plot(parts))
    files.write_whole(page, after.encode())


def filled(text: str, folder: Path) -> str:
    """The page with every table rebuilt."""
    measured, counted = gather(folder / "gpu"), arithmetic(folder)
    peers = tables.read(folder / tables.FOLDER)

    def block(match: re.Match[str]) -> str:
        if match[2] in tables.TABLES:
            return match[1] + tables.TABLES[match[2]](peers) + "\n" + match[3]
        if match[2] not in TABLES:
            valid = ", ".join([*TABLES, *tables.TABLES])
            raise click.ClickException(f"performance.md: '{match[2]}' is none of {valid}")
        return match[1] + TABLES[match[2]](measured, counted) + "\n" + match[3]

    return BLOCK.sub(block, text)


def gather(folder: Path) -> Measured:
    """The newest finished outcome of each row, from full runs only."""
    documents = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    newest: Measured = {}
    for document in sorted(documents, key=lambda one: one["began"]):
        if document["mode"] != "full":
            continue
        about = {key: document[key] for key in ("machine", "command", "began")}
        done = {name: row for name, row in document["rows"].items() if row["status"] == "done"}
        newest |= {name: row | about for name, row in done.items()}
    return newest


def arithmetic(folder: Path) -> dict[str, Any]:
    """The output of `scripts/estimate_models.py --json`, by recipe."""
    return json.loads((folder / "arithmetic.json").read_bytes())


# --- tables --------------------------------------------------------------------------------------


def counts(_: Measured, counted: dict[str, Any]) -> str:
    """Arithmetic of the recipes; recipes with equal numbers share a row."""
    groups: dict[tuple[float, float], list[str]] = {}
    for name, one in counted.items():
        groups.setdefault((one["forward"], one["image"]), []).append(f"`{name}`")
    rows = [
        [", ".join(names), f"{forward / 1e12:.2f} TFLOP", f"{image / 1e12:,.0f} TFLOP"]
        for (forward, image), names in groups.items()
    ]
    return table(["recipe", "one forward pass", "an image"], rows)


def machines(measured: Measured, _: dict[str, Any]) -> str:
    """A line for each card: driver, software, commit."""
    lines = {}
    for row in measured.values():
        machine = row["machine"]
        commit = (machine.get("commit") or machine["sources_sha256"])[:12]
        lines[row["began"]] = (
            f"* {machine['device']}, {machine['memory'] / 1e9:.0f} GB, driver "
            f"{machine.get('driver_version', 'unknown')}, PyTorch {machine['torch']}, "
            f"{machine['cores']} cores; code {commit}; `{row['command']}`"
        )
    return "\n".join(lines[began] for began in sorted(lines)) or f"Every row: **{NONE}**."


def rates(measured: Measured, _: dict[str, Any]) -> str:
    """Products and copies."""
    if (row := measured.get("rates")) is None:
        return table(["what", "rate"], [["matrix products and copies", NONE]])
    figures = row["figures"]
    lines = [
        [f"products of {name}", span(value, "TFLOP/s", unit=1e12)]
        for name, value in figures["products"].items()
    ]
    lines += [
        [f"copy {name}", span(value, "GB/s", unit=1e9)] for name, value in figures["copies"].items()
    ]
    return table(["what", f"{card(row)}: median (least to most)"], lines)


def models(measured: Measured, counted: dict[str, Any]) -> str:
    """Speed and memory of every recipe that is a row."""
    columns = ["row", "what it shows", "aim on one H100", "card", "images/s", "sampled/s"]
    columns += ["at most, by arithmetic", "outside the model", "peak (estimate)", "compiling"]
    lines = []
    for row in ROWS:
        if row.name not in SHOWS:
            continue
        shows, aim = SHOWS[row.name]
        outcome = measured.get(row.name)
        cells = _speed(outcome, measured, counted) if outcome else [NONE] + [""] * 6
        lines.append([f"`{row.name}`: {row.title}", shows, aim, *cells])
    return table(columns, lines)


def _speed(outcome: dict[str, Any], measured: Measured, counted: dict[str, Any]) -> list[str]:
    figures = outcome["figures"]
    images, update = figures["images_per_update"], figures["update_s"]
    rate = {
        "median": images / update["median"],
        "min": images / update["max"],
        "max": images / update["min"],
    }
    peak, estimate = figures["peak_bytes"], figures["estimate_bytes"]
    said = f"{max(estimate.values()) / 1e9:.1f}" if estimate else "no estimate"
    compiling = figures["compile_s"]
    return [
        card(outcome),
        span(rate),
        f"{figures['sampled_per_s']:.2f}",
        _bound(outcome, measured, counted),
        f"{100 * figures['outside_the_model']:.1f} %",
        f"{peak['tensors'] / 1e9:.1f} GB ({said})",
        f"{compiling:.0f} s" if compiling else "-",
    ]


def _bound(outcome: dict[str, Any], measured: Measured, counted: dict[str, Any]) -> str:
    """Images a second if every operation ran at the card's rate of matrix products."""
    figures, known = outcome["figures"], measured.get("rates")
    one = counted.get(figures["recipe"])
    if one is None or known is None or card(known) != card(outcome):
        return "-"
    rate = known["figures"]["products"].get(figures["dtype"])
    return f"{rate['median'] / one['image']:.2f}" if rate else "-"


def straight(measured: Measured, _: dict[str, Any]) -> str:
    """The straight-line loop beside ours."""
    columns = ["row", "card", "ours, s an update", "straight line", "speed of ours", "peak of both"]
    lines = []
    for row in ROWS:
        if not row.name.startswith("straight"):
            continue
        outcome = measured.get(row.name)
        cells = [NONE] + [""] * 4
        if outcome:
            figures = outcome["figures"]
            peaks = figures["peak_bytes"]
            sizes = [f"{peaks[name]['tensors'] / 1e9:.1f}" for name in ("ours", "straight")]
            seconds = [span(figures[name], "s") for name in ("ours", "straight")]
            speed = span(figures["speed_of_ours"], "x")
            cells = [card(outcome), *seconds, speed, f"{' and '.join(sizes)} GB"]
        lines.append([f"`{row.name}`", *cells])
    return table(columns, lines)


def parity(measured: Measured, _: dict[str, Any]) -> str:
    """Worst stage of every comparison."""
    columns = ["row", "type", "card", "stages", "over tolerance", "worst stage", "relative error"]
    lines = []
    for row in ROWS:
        if not row.name.startswith("parity-") or row.name == "parity-golden":
            continue
        outcome = measured.get(row.name)
        if outcome is None:
            lines.append([f"`{row.name}`: {row.title}", "", NONE, "", "", "", ""])
            continue
        for dtype, comparison in outcome["figures"]["dtypes"].items():
            worst = comparison["worst"]
            cells = [str(len(comparison["stages"])), ", ".join(comparison["over"]) or "none"]
            cells += [worst["stage"], f"{worst['relative_error']:.1e}"]
            lines.append([f"`{row.name}`: {row.title}", dtype, card(outcome), *cells])
    return table(columns, lines)


def study(measured: Measured, _: dict[str, Any]) -> str:
    """Rates of the emoji study, and DRIFT less plain GRPO."""
    outcome = measured.get("study")
    if outcome is None:
        return table(["what", "figure"], [["the emoji study", NONE]])
    figures = outcome["figures"]
    lines = [
        [f"updates a second, {count} at once", f"{rate:.2f}"]
        for count, rate in figures["updates_per_s"].items()
    ]
    pairs = figures["pairs"]
    lines.append(["seeds that both methods ended", str(len(pairs["seeds"]))])
    for name, value in pairs.get("differences", {}).items():
        lines.append([f"{name}, DRIFT less plain GRPO", span(value, digits=3)])
    return table(["what", card(outcome)], lines)


def checks(measured: Measured, _: dict[str, Any]) -> str:
    """Tests, resuming, MLX, and the profile."""
    lines = []
    for name in ("parity-golden", "tests", "resume", "trace", "mlx"):
        row, outcome = next(row for row in ROWS if row.name == name), measured.get(name)
        said = _said(name, outcome["figures"]) if outcome else ""
        lines.append([f"`{name}`: {row.title}", card(outcome) if outcome else NONE, said])
    return table(["row", "card", "figure"], lines)


def _said(name: str, figures: dict[str, Any]) -> str:
    match name:
        case "resume":
            return f"{figures['updates']} updates, killed at {figures['killed_at']}: the same bytes"
        case "trace":
            busy = figures["busy_s"] / figures["update_s"]
            return f"an update of {figures['update_s']:.2f} s; the card is busy {100 * busy:.0f} %"
        case "mlx":
            seconds = {name: span(value, "s") for name, value in figures["update_s"].items()}
            return "an update: " + ", ".join(f"{name} {text}" for name, text in seconds.items())
    passed = figures["tests"] - figures["skipped"]
    return f"{passed} passed, {figures['skipped']} skipped"


# --- cells ---------------------------------------------------------------------------------------


def card(outcome: dict[str, Any]) -> str:
    """The device's name."""
    return outcome["machine"]["device"]


TABLES: dict[str, Callable[[Measured, dict[str, Any]], str]] = {
    "arithmetic": counts,
    "machines": machines,
    "rates": rates,
    "models": models,
    "straight": straight,
    "parity": parity,
    "study": study,
    "checks": checks,
}


if __name__ == "__main__":
    main()

"""The tables and the plot of docs/performance.md that `scripts/bench_peers.py` measured."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.report import figure
from scripts.markdown import span, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FOLDER", "PLOT", "TABLES", "plot", "read", "short"]

Documents = Mapping[str, Mapping[str, Any]]
"""Part -> what was stored of it."""

FOLDER = "peers"
PLOT = "growth.svg"
NONE = "not measured"

TICKS = [4, 8, 16, 32, 64, 128, 256]
HUES = {"images": ("hue-1", "hue-2"), "image-steps": ("hue-3", "hue-3")}
"""Colours of the curves: those over images, and the one over images times steps."""

CASES = {
    "sd3": "SD 3.5, Flow-GRPO-Fast, no guidance",
    "sd3-guided": "SD 3.5, Flow-GRPO, guidance 4.5, KL",
    "sd15-guided": "SD 1.5, DDPO, guidance 5",
}
WAITED = {
    "help": "`drift --help`",
    "loading": "`drift run`, until it begins to compute",
    "first update": "`drift run`, until the base model is evaluated and the first update begins",
    "report": "`drift report`",
}


def read(folder: Path) -> Documents:
    """The parts that a folder holds, by name."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}


def machines(parts: Documents) -> str:
    """A line for each machine and its software."""
    lines = []
    for part in parts.values():
        machine = part["machine"]
        versions = machine["versions"]
        known = [f"{name} {versions[name]}" for name in ("torch", "mlx", "diffusers", "peft")]
        line = f"* {machine['processor']}, {part['threads']} of {machine['cores']} cores; "
        lines.append(line + ", ".join(known))
    return "\n".join(dict.fromkeys(lines)) or f"Every row: **{NONE}**."


def straight(parts: Documents) -> str:
    """Speed beside the straight-line loops."""
    columns = ["case", "size", "whole update", "sampling", "training", "ours, images/s"]
    columns += ["outside the networks", "peak memory, ours : theirs", "gradients differ by"]
    lines = []
    for size in ("tiny", "middle"):
        for name, title in CASES.items():
            part = parts.get(f"straight-{name}-{size}")
            cells = _straight(part["figures"]) if part else [NONE] + [""] * 6
            lines.append([title, size, *cells])
    return table(columns, lines)


def _straight(figures: Mapping[str, Any]) -> list[str]:
    peak = {name: f"{size / 1e6:.0f}" for name, size in figures["peak_bytes"].items()}
    return [
        *(span(figures[name]["speed"]["cpu"], "x") for name in ("whole", "sampling", "training")),
        f"{figures['images'] / figures['whole']['ours']['cpu']['median']:.3g}",
        f"{100 * figures['outside']:.1f} %",
        f"{peak['ours']} : {peak['straight']} MB",
        f"{figures['gradient_error']:.0e}",
    ]


def calls(parts: Documents) -> str:
    """How many images the networks saw in one update."""
    lines = []
    for name, title in CASES.items():
        part = parts.get(f"straight-{name}-middle") or parts.get(f"straight-{name}-tiny")
        if part is None:
            lines.append([title, NONE, ""])
            continue
        lines.append([title, *(_called(part["figures"]["calls"][k]) for k in ("ours", "straight"))])
    return table(["case", "ours: calls (images)", "straight line"], lines)


def _called(counts: Mapping[str, int]) -> str:
    kinds = {"without": "without gradients", "with gradients": "with gradients"}
    return ", ".join(
        f"{counts.get(f'calls {kind}', 0)} ({counts.get(f'images {kind}', 0)}) {said}"
        for kind, said in kinds.items()
    )


def switches(parts: Documents) -> str:
    """What each setting gives."""
    columns = ["setting", "beside", "case", "speed of an update", "in wall time"]
    lines = []
    for name, part in parts.items():
        if name.startswith("switch-"):
            figures = part["figures"]
            speed = [span(figures["speed"][clock], "x") for clock in ("cpu", "wall")]
            lines.append([f"`{figures['on']}`", f"`{figures['off']}`", figures["case"], *speed])
    return table(columns, lines or [[NONE] + [""] * 4])


def backends(parts: Documents) -> str:
    """MLX beside PyTorch."""
    lines = []
    for name, part in parts.items():
        if not name.startswith("backends-"):
            continue
        figures = part["figures"]
        for backend, cost in figures["update"].items():
            ratio = figures["ratio"].get(backend)
            cells = [span(cost["cpu"], "s"), span(ratio["cpu"], "x") if ratio else "1"]
            lines.append([figures["case"], f"`{backend}`", *cells])
    columns = ["case", "backend", "processor time of an update", "times the first"]
    return table(columns, lines or [[NONE] + [""] * 3])


def growth(parts: Documents) -> str:
    """The cost of an image, or of an image and a step, beside the middle of all values."""
    lines = []
    for name, part in parts.items():
        if not name.startswith("growth-"):
            continue
        figures = part["figures"]
        unit = {"images": "an image", "image-steps": "a step of an image"}[figures["counts"]]
        costs = {p["value"]: p["cpu"]["median"] / p["units"] for p in figures["points"]}
        said = ", ".join(f"{value}: {1000 * cost:.1f}" for value, cost in costs.items())
        lines.append([f"`{figures['key']}`", unit, said])
    return table(["setting", "milliseconds of", "at each value"], lines or [[NONE, "", ""]])


def waiting(parts: Documents) -> str:
    """Start and report, beside their aims."""
    part = parts.get("waiting")
    lines = []
    for name, title in WAITED.items():
        cells = [NONE, "", ""]
        if part:
            cost, aim = part["figures"][name], part["aims"][name]
            cells = [
                span(cost["cpu"], "s"),
                span(cost["wall"], "s"),
                f"under {aim:g} s" if aim else "",
            ]
        lines.append([title, *cells])
    return table(["what", "processor", "wall", "aim"], lines)


def plot(parts: Documents) -> bytes:
    """The growth as an SVG: images a second over each setting, and the line of equal cost."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def draw(axes: "Axes") -> None:
        for name, part in sorted(parts.items()):
            if not name.startswith("growth-"):
                continue
            figures = part["figures"]
            points = figures["points"]
            seconds = [point["cpu"]["median"] for point in points]
            colour = figure.LIGHT[HUES[figures["counts"]][figures["key"] == "rollout.prompts"]]
            units = [point["units"] for point in points]
            label = figures["key"].partition(".")[2].replace("_", " ")
            axes.plot(units, seconds, color=colour, marker="o", markersize=4, label=label)
            rate = seconds[-1] / units[-1]
            ends = [units[0], units[-1]]
            axes.plot(ends, [rate * u for u in ends], color=colour, linestyle=":", linewidth=1)
        for axis, ticks in ((axes.xaxis, TICKS[:-1]), (axes.yaxis, [t / 16 for t in TICKS])):
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel("images of an update (green: images x steps)")
        axes.set_ylabel("processor seconds of an update")
        axes.legend(loc="upper left")

    return figure.files("growth", draw, size=(6.0, 3.6))["svg"]


def growth_plot(parts: Documents) -> str:
    """The image of the plot, and its table."""
    if not any(name.startswith("growth-") for name in parts):
        return growth(parts)
    alt = "Seconds of an update over its images: nearly straight lines of slope one"
    return f"{growth(parts)}\n\n![{alt}](results/{FOLDER}/{PLOT})"


def short(parts: Documents) -> str:
    """The rows of the parts that are there, for a terminal."""
    columns = ["case", "size", "whole update", "sampling", "training", "outside", "memory"]
    lines = []
    for name, part in parts.items():
        if name.startswith("straight-"):
            case, size = name.removeprefix("straight-").rsplit("-", 1)
            cells = _straight(part["figures"])
            lines.append([case, size, *cells[:3], cells[4], cells[5]])
    return table(columns, lines)


TABLES: dict[str, Callable[[Documents], str]] = {
    "peers-machines": machines,
    "peers": straight,
    "peers-calls": calls,
    "switches": switches,
    "backends": backends,
    "growth": growth_plot,
    "waiting": waiting,
}

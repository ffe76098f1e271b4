"""Drawings as inline SVG of a page or as files.

A drawing is a function of axes and colours. On a page its colours are CSS variables, so that it
fits light, dark and print; in a file they are those of the light page.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colours = Mapping[str, str]
"""A colour by the name of the page's variable."""

LIGHT: Colours = {
    "ink": "#16191d",
    "muted": "#5a636d",
    "rule": "#d5dade",
    "accent": "#0b7285",
    "paper": "#ffffff",
    "hue-0": "#0b7285",
    "hue-1": "#c2410c",
    "hue-2": "#7048c6",
    "hue-3": "#2b8a3e",
    "hue-4": "#c2255c",
    "hue-5": "#1c6fd1",
    "hue-6": "#7d6608",
    "hue-7": "#6b5b4f",
}
"""The colours of the light page, as in its style sheets."""

HUES = 8
"""Number of colours for methods."""

# Matplotlib needs real colours: `_inline` replaces these by the page's variables.
PAGE: Colours = {name: f"#0101{number:02x}" for number, name in enumerate(LIGHT, start=1)}

Draw = Callable[["Axes"], None]


def style(colours: Colours) -> dict[str, Any]:
    """Matplotlib's settings for a drawing in these colours."""
    muted, rule = colours["muted"], colours["rule"]
    return {
        "svg.fonttype": "none",
        "font.size": 9,
        "text.color": muted,
        "axes.labelcolor": muted,
        "axes.edgecolor": rule,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.formatter.useoffset": False,
        "axes.formatter.limits": (-3, 5),
        "grid.color": rule,
        "grid.linewidth": 0.6,
        "xtick.color": rule,
        "ytick.color": rule,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
    }


def inline(name: str, alt: str, draw: Draw, *, size: tuple[float, float] = (4.4, 2.5)) -> str:
    """One <svg> element, with `alt` for screen readers; the same drawing gives the same text."""
    with _drawn(name, [draw], size, PAGE) as figure:
        return _inline(_svg(figure, transparent=True), alt)


def inline_with_places(
    name: str,
    alt: str,
    draw: Draw,
    points: Sequence[tuple[float, float]],
    *,
    size: tuple[float, float],
) -> tuple[str, list[tuple[float, float]]]:
    """As `inline`, and the places of data points in the drawing: (left, top) in [0, 1]."""
    with _drawn(name, [draw], size, PAGE) as figure:
        svg = _inline(_svg(figure, transparent=True), alt)
        shown = figure.axes[0].transData.transform(points) if points else []
        width, height = figure.bbox.size
        return svg, [(float(x / width), float(1 - y / height)) for x, y in shown]


def files(name: str, draw: Draw, *, size: tuple[float, float]) -> dict[str, bytes]:
    """The drawing in the colours LIGHT as file contents, by suffix: svg and png."""
    return panel_files(name, [draw], size=size)


def panel_files(name: str, draws: Sequence[Draw], *, size: tuple[float, float]) -> dict[str, bytes]:
    """As `files`, of drawings beside each other; size: of all together, in inches."""
    with _drawn(name, draws, size, LIGHT) as figure:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        return {"svg": _svg(figure, transparent=False).encode(), "png": png.getvalue()}


@contextmanager
def _drawn(
    name: str, draws: Sequence[Draw], size: tuple[float, float], colours: Colours
) -> "Iterator[Figure]":
    """A figure with each drawing on axes of its own, in this module's style."""
    from matplotlib import style as styles
    from matplotlib.figure import Figure

    # after_reset: the user's own matplotlib settings must not change a report.
    with styles.context([style(colours) | {"svg.hashsalt": name}], after_reset=True):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(draws), squeeze=False)
        for draw, each in zip(draws, axes[0], strict=True):
            draw(each)
        yield figure


def _svg(figure: "Figure", *, transparent: bool) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    return buffer.getvalue()


def _inline(svg: str, alt: str) -> str:
    """Turn an SVG document into one element of the page, in the page's colours.

    A group with an id "class-NAME" gets the class NAME.
    """
    svg = svg[svg.index("<svg") :].rstrip()
    # Remove the date, global styles, and ids that other plots use too.
    svg = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>|<!--.*?-->", "", svg, flags=re.S
    )
    svg = re.sub(r'<g id="class-([^"]*)"', r'<g class="\1"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)  # the page sets the font
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None, "matplotlib's SVG has a view box"
    svg = f'<svg {box[0]} role="img" aria-label="{escape(alt)}">' + svg[svg.index(">") + 1 :]
    for name, colour in PAGE.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)

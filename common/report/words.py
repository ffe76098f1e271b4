"""The text form of numbers, settings and pictures of a page, and the page templates."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import pictures

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent


def template(name: str) -> "Template":
    """A page's template: values are escaped, and a missing value is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def style(*names: str) -> str:
    """Style sheets, one after the other."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def places(value: float) -> int:
    """Decimals that show three significant digits of a value."""
    if not math.isfinite(value) or value == 0:
        return 3
    return min(max(2 - math.floor(math.log10(abs(value))), 0), 8)


def number(value: float, places: int, *, signed: bool = False) -> str:
    """A number with so many decimals and a true minus sign; a dash for NaN and infinity."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", "−")


def percent(value: float) -> str:
    """A relative change: +46%, −3%, 0%."""
    text = f"{value:+.0%}"
    return "0%" if text in ("+0%", "-0%") else text.replace("-", "−")


def count(number: int, noun: str) -> str:
    """1 image, 2,000 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain(value: Any) -> str:
    """A setting as plain text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def data_uri(picture: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as the source of an <img>."""
    return "data:image/png;base64," + base64.b64encode(pictures.encode_png(picture)).decode()

"""Sphinx: the documentation as a site. `make docs` builds it, with warnings as errors."""

import re
from importlib.metadata import version as installed_version
from typing import Any

project = "DRIFT toolkit"
author = "The DRIFT toolkit developers"
release = version = installed_version("drift-toolkit")
copyright = author  # Sphinx's name

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["results/**", "first_run.ipynb"]
suppress_warnings = ["misc.highlighting_failure"]  # shell blocks without a language

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "DRIFT toolkit"
html_static_path: list[str] = []
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"http://localhost.*"]


SECTIONS = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example|Examples|Note|Source):\s*$")
CODE = re.compile(r"(`+[^`]*`+)")


def escaped(line: str) -> str:
    """A line of plain text as reStructuredText: | and * stand for themselves outside of code."""
    parts = CODE.split(line)
    return "".join(
        part if part.startswith("`") else re.sub(r"([|*])", r"\\\1", part) for part in parts
    )


def plain_docstring(_: Any, what: str, __: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Our docstrings are plain text: an indented formula before the sections is shown as it is."""
    # In the first line of an attribute's docstring napoleon takes what is before a colon as a type.
    result = [""] if what in ("attribute", "data", "property") else []
    section, formula, example = False, False, False
    for line in lines:
        section = section or bool(SECTIONS.match(line))
        example = (example or line.lstrip().startswith(">>>")) and bool(line.strip())
        indented = line.startswith(" ") and not section and not example
        if indented and not formula:
            result += ["", "::", ""]
        elif formula and not indented and line.strip():
            result.append("")
        formula = indented or (formula and not line.strip())
        result.append(line if formula or example else escaped(line))
    lines[:] = result


def plain_help(_: Any, __: Any, lines: list[str]) -> None:
    """The help of a command is plain text too."""
    lines[:] = [line if ".. option::" in line else escaped(line) for line in lines]


def setup(app: Any) -> None:
    """Before napoleon, which makes sections of what it gets."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    for part in ("description", "options", "arguments", "epilog"):
        app.connect(f"sphinx-click-process-{part}", plain_help)

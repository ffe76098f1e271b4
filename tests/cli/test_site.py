"""The documentation as a site: every page is in its tree, and it is built without a warning."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
TREE = re.compile(r"```\{toctree\}\n(?::.*\n)*\n((?:[\w-]+\n)+)```")
BROWSER = runpy.run_path(str(Path(__file__).with_name("test_report_browser.py")))
tab = BROWSER["tab"]


def test_every_page_is_in_the_tree_once():
    listed = [
        name for part in TREE.findall((DOCS / "index.md").read_text()) for name in part.split()
    ]
    assert sorted([*listed, "index"]) == PAGES


def test_the_page_of_the_mathematics_has_every_module_with_public_functions():
    text = (DOCS / "algorithm.md").read_text()
    shown = set(re.findall(r"automodule:: common\.algorithm\.(\w+)", text))
    modules = {path.stem for path in (DOCS.parent / "common" / "algorithm").glob("*.py")}
    assert modules - shown == {"__init__"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. Read only."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, "-d", folder / "trees", DOCS, folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_the_site_is_built_without_a_warning_and_fits(tab, site, width):
    for name in PAGES:
        tab.show(site / f"{name}.html", width=width)
        assert tab.value("document.documentElement.scrollWidth") <= width, name
        assert tab.value("[...document.images].every(i => i.naturalWidth > 0)"), name
    text = (site / "commands.html").read_text()
    assert all(f'id="drift-{name}"' in text for name in ("run", "eval", "compare"))
    assert "drift.train" in (site / "api.html").read_text()

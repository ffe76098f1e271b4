"""What is built from a checkout is complete: the source distribution, and from it the wheel.

Python finds modules by itself, but weights, recipes, templates and licences only travel when
`pyproject.toml` and `MANIFEST.in` name them; an editable installation would not miss them.
"""

import email
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from common.workflows import model_card

ROOT = Path(__file__).parents[2]
PACKAGES = ["common", "drift", "drift_mlx", "drift_torch"]
FOLDERS = [*PACKAGES, ".ci", ".github", "docs", "scripts", "tests"]
FILES = [
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md"),
    *("constraints.txt", "pyproject.toml", "CITATION.cff", "Dockerfile", ".dockerignore"),
]
NO_SOURCE = shutil.ignore_patterns("__pycache__", ".*")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Files of the sources, files of the source distribution, the wheel built from it, unpacked."""
    top = tmp_path_factory.mktemp("packaging")
    sources, unpacked, wheel = top / "sources", top / "unpacked", top / "wheel"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name, ignore=NO_SOURCE)
    for name in FILES:
        shutil.copy(ROOT / name, sources)
    expected = files(sources)  # before setuptools leaves its own there

    shutil.unpack_archive(build("sdist", sources, top / "sdist"), unpacked)
    (unpacked,) = unpacked.iterdir()
    contents = files(unpacked)
    shutil.unpack_archive(build("wheel", unpacked, top / "built"), wheel, "zip")
    return expected, contents, wheel


def build(kind, folder, out):
    """Build as pip does it, without the network: call the hook of the build backend."""
    out.mkdir()
    subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), out], cwd=folder, check=True, capture_output=True
    )
    (path,) = out.iterdir()
    return path


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_source_distribution_is_the_checkout(built):
    expected, contents, _ = built
    assert {"Makefile", "docs/method.md", ".ci/run", "tests/conftest.py"} <= expected
    made = {name for name in contents if name.startswith("drift_toolkit.egg-info/")}
    assert contents - made - expected == {"PKG-INFO", "setup.cfg"}
    assert expected <= contents


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(built):
    expected, _, wheel = built
    of_packages = {name for name in expected if name.split("/")[0] in PACKAGES}
    assert {Path(name).suffix for name in of_packages} >= {
        *(".css", ".j2", ".json", ".md", ".npz", ".py", ".safetensors", ".toml", ".txt")
    }
    assert {name for name in files(wheel) if ".dist-info/" not in name} == of_packages


def test_the_wheel_states_and_carries_its_licences(built):
    _, _, wheel = built
    (info,) = wheel.glob("*.dist-info")
    metadata = email.message_from_string((info / "METADATA").read_text())
    assert metadata["License-Expression"] == "MIT AND Apache-2.0 AND CC-BY-4.0"
    carried = files(info / "licenses")
    assert carried == set(metadata.get_all("License-File"))
    assert {Path(name).name for name in carried} == {
        *("LICENSE", "LICENSE-APACHE-2.0.txt", "ATTRIBUTION.md")
    }


def test_the_wheel_has_the_command_and_the_backends(built):
    _, _, wheel = built
    entries = next(wheel.glob("*.dist-info/entry_points.txt")).read_text()
    for entry in ("drift = common.cli:main", "cpu = drift_torch.", "mlx = drift_mlx."):
        assert f"\n{entry}" in entries


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {project['version']}" in lines
    for name in project["license"].split(" AND "):
        assert f"  - {name}" in lines


def test_the_image_has_all_that_the_wheel_is_built_from():
    """What is copied into it is not left out by .dockerignore, and every package is copied."""
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {path.split("/")[0] for path in copied} <= sent
    assert set(PACKAGES) <= set(copied)


def test_the_citation_is_the_same_everywhere():
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert " ".join(model_card.CITATION.split()) in readme
    title = re.search(r"title += \{(.*?)\},\n", model_card.CITATION, re.DOTALL)[1]
    cff = " ".join((ROOT / "CITATION.cff").read_text().split())
    assert " ".join(title.replace("{", "").replace("}", "").split()) in cff

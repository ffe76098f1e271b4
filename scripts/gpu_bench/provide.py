"""Make a folder from which the toolkit can be imported, without a network and without installing.

    python -m scripts.gpu_bench.provide WHEELS

Prints the folder. In it are those packages of WHEELS that this Python lacks, and the entry
points of the toolkit's backends and rewards. It is in the checkout, not in a folder that others may
write. Needs nothing but Python and pip.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

__all__ = ["missing", "provide"]

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Print the folder; 2 when the wheels cannot be used."""
    try:
        print(provide(Path(sys.argv[1])))
    except (OSError, ValueError) as error:
        print(f"gpu_bench: {error}", file=sys.stderr)
        return 2
    return 0


def provide(wheels: Path, root: Path = ROOT) -> Path:
    """Make the folder, replacing an old one; ValueError in one line for wheels that do not fit."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = root / f".gpu_site-{version}"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    wanted = missing(sorted(wheels.glob("*.whl")))
    if wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-compile", "--target", str(site)]
        done = subprocess.run(
            [*command, *map(str, wanted)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise ValueError(f"wheels in {wheels} do not fit Python {version}: {last}")
    _entry_points(site, root)
    return site


def missing(wheels: Sequence[Path]) -> list[Path]:
    """Those whose package this Python has not, or has in a version older than is asked for."""
    return [wheel for wheel in wheels if _needed(*wheel.name.split("-")[:2])]


def _needed(name: str, version: str) -> bool:
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    least = _least().get(_plain(name))
    return least is not None and _numbers(installed) < _numbers(least)


def _least() -> dict[str, str]:
    """The least version of each package that pyproject.toml asks for."""
    project = _project(ROOT)
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    listed = [text for group in groups for text in group]
    matches = (re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+)", text) for text in listed)
    return {_plain(match[1]): match[2] for match in matches if match}


def _entry_points(site: Path, root: Path) -> None:
    """Write the metadata of an installation, by which backends and rewards are registered."""
    project = _project(root)
    folder = site / f"drift_toolkit-{project['version']}.dist-info"
    folder.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(about, encoding="utf-8")
    groups = project["entry-points"] | {"console_scripts": project["scripts"]}
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items()), ""]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def _project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


if __name__ == "__main__":
    sys.exit(main())

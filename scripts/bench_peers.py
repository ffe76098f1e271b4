"""Speed and memory of the same work beside other loops, other backends and other settings.

    python -m scripts.bench_peers                        # what docs/results/peers lacks
    python -m scripts.bench_peers --parts waiting,growth # parts whose name begins so
    python -m scripts.bench_peers --again --parts switch # measure stored ones once more
    python -m scripts.bench_peers --short                # or: make bench; prints, stores nothing

Each part has a process of its own and is stored when it ends, so that a killed run goes on where
it was. Loops take turns in one process; the figure is the processor's time of one thread, and a
ratio is that of each pair. `make results` puts what is stored into docs/performance.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from common.runs import files
from scripts.gpu_bench import machine
from scripts.gpu_bench.context import to_json
from scripts.peers import tables
from scripts.peers.growth import AXES
from scripts.peers.setup import CASES
from scripts.peers.switches import SWITCHES
from scripts.peers.waiting import AIMS

FOLDER = Path(__file__).parents[1] / "docs" / "results" / tables.FOLDER
PAIRS = 5
SHORT = ("straight-sd3-tiny", "straight-sd3-guided-tiny", "straight-sd15-guided-tiny")
"""The parts of `--short`."""


def _beside(name: str, size: Any, pairs: int) -> dict[str, Any]:
    from scripts.peers.beside import beside

    return beside(name, size, pairs)


def _switch(name: str, pairs: int) -> dict[str, Any]:
    from scripts.peers.switches import switch

    return switch(name, pairs)


def _growth(axis: str, pairs: int) -> dict[str, Any]:
    from scripts.peers.growth import growth

    return growth(axis, pairs)


def _backends(name: str, size: Any, pairs: int) -> dict[str, Any]:
    from scripts.peers.backends import backends

    return backends(name, size, pairs, ("cpu", "mlx"))


def _waiting(pairs: int) -> dict[str, Any]:
    from scripts.peers.waiting import waiting

    return waiting(pairs)


Part = Callable[[int], dict[str, Any]]
"""A number of pairs -> the figures."""

PARTS: dict[str, Part] = {
    **{f"straight-{n}-{s}": partial(_beside, n, s) for s in ("tiny", "middle") for n in CASES},
    "waiting": _waiting,
    **{f"growth-{axis}": partial(_growth, axis) for axis in AXES},
    "backends-emoji": partial(_backends, "emoji", "tiny"),
    **{f"backends-{n}": partial(_backends, n, "middle") for n in ("sd3", "sd15-guided")},
    **{f"switch-{name}": partial(_switch, name) for name in SWITCHES},
}
"""In the order in which they are measured."""


@click.command()
@click.option("--parts", default="", metavar="A,B", help="Parts whose names begin so.")
@click.option("--again", is_flag=True, help="Measure also what is stored.")
@click.option("--pairs", default=PAIRS, show_default=True, type=click.IntRange(min=1))
@click.option("--short", is_flag=True, help="Print a short table; nothing is stored.")
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
@click.option("--worker", hidden=True, help="Measure this part in this process.")
def main(parts: str, again: bool, pairs: int, short: bool, out: Path, worker: str | None) -> None:
    """Measure speed and memory beside straight-line loops, backends and settings."""
    if worker:
        store(worker, pairs, out)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    names = chosen(parts, SHORT if short else tuple(PARTS))
    if short:
        with tempfile.TemporaryDirectory() as folder:
            failed = measure(names, pairs, Path(folder), again=True)
            print(tables.short(tables.read(Path(folder))))
    else:
        failed = measure(names, pairs, out, again=again)
    sys.exit(bool(failed))


def chosen(words: str, names: tuple[str, ...]) -> list[str]:
    """The names that begin with one of the words. Raises click.ClickException for none."""
    wanted = tuple(word.strip() for word in words.split(",") if word.strip())
    picked = [name for name in names if not wanted or name.startswith(wanted)]
    unknown = [word for word in wanted if not any(name.startswith(word) for name in names)]
    if words and not wanted:
        raise click.ClickException(f"--parts '{words}' names none; valid: {', '.join(names)}")
    if unknown:
        raise click.ClickException(f"--parts {unknown[0]}: valid: {', '.join(names)}")
    return picked


def measure(names: list[str], pairs: int, out: Path, *, again: bool) -> list[str]:
    """Measure parts, each in its own process; the names of those that failed."""
    failed = []
    for name in names:
        if (out / f"{name}.json").exists() and not again:
            print(f"{name}: stored", flush=True)
            continue
        start = time.perf_counter()
        command = [sys.executable, "-m", "scripts.bench_peers", "--worker", name]
        command += ["--pairs", str(pairs), "--out", str(out)]
        code = subprocess.run(command, check=False).returncode
        said = f"failed with exit code {code}" if code else f"{time.perf_counter() - start:.0f} s"
        print(f"{name}: {said}", file=sys.stderr, flush=True)
        failed += [name] if code else []
    return failed


def store(name: str, pairs: int, out: Path) -> None:
    """Measure one part here, and store it."""
    (chosen_name,) = chosen(name, (name,) if name in PARTS else tuple(PARTS))
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    figures = PARTS[chosen_name](pairs)
    document = {
        "part": name,
        "began": began,
        "command": f"python -m scripts.bench_peers --parts {name} --pairs {pairs}",
        "machine": machine.facts(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0)),
        "figures": figures,
    }
    if name == "waiting":
        document["aims"] = AIMS
    out.mkdir(parents=True, exist_ok=True)
    files.write_whole(out / f"{name}.json", to_json(document))
    print(json.dumps(figures, indent=1)) if sys.stdout.isatty() else None


if __name__ == "__main__":
    main()

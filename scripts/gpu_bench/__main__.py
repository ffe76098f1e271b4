"""The command behind `scripts/gpu_bench.sh`; Python itself is enough to say what is missing.

python -m scripts.gpu_bench [--minutes 9] [--smoke | --tiny] [--rows 2,sd3-fast] [--out FILE]
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.gpu_bench import machine
from scripts.gpu_bench.context import Mode
from scripts.gpu_bench.rows import Row, chosen
from scripts.gpu_bench.schedule import Document, Plan, lacking, run

SMOKE_MINUTES = 1.5
PRELOADED = ("scripts.gpu_bench.preload", "scripts.gpu_bench.rows")


class UnusableError(Exception):
    """The request or the machine cannot be used; the message says why in one line."""


def main(words: list[str] | None = None) -> int:
    """Measure; 0 when no row failed, 1 when one did, 2 when nothing could be measured."""
    options = parse(words)
    try:
        mode: Mode = "tiny" if options.tiny else "smoke" if options.smoke else "full"
        rows = chosen(options.rows)
        if not 0 < options.minutes < 1e4:
            raise UnusableError(f"--minutes {options.minutes}: valid: above 0")
        document = start(options.out, mode, rows)
        return measure(document, mode, rows, 60.0 * options.minutes)
    except (UnusableError, ValueError, OSError) as error:
        print(f"gpu_bench: {error}", file=sys.stderr)
        return 2


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpu_bench.sh", description="Measure speed, memory and parity on a CUDA GPU."
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help="every row, few layers and steps: 90 s")
    size.add_argument("--tiny", action="store_true", help="every row with tiny models on the CPU")
    parser.add_argument("--minutes", type=float, help="time for all of it (9; with --smoke 1.5)")
    parser.add_argument("--rows", metavar="A,B", help="only these, by name or number")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_bench.json"), help="the document (%(default)s)"
    )
    options = parser.parse_args(words)
    if options.minutes is None:
        options.minutes = SMOKE_MINUTES if options.smoke else 9.0
    return options


def start(out: Path, mode: Mode, rows: list[Row]) -> Document:
    """The document with the machine in it; raises UnusableError where nothing can run."""
    facts = card(mode)
    for module, names in lacking(rows).items():
        listed = "every row" if len(names) == len(rows) else f"rows {', '.join(names)}"
        print(f"missing: {module}, for {listed} (see scripts/gpu_wheels.sh)", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "mode": mode,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.facts() | facts,
        "command": " ".join(["scripts/gpu_bench.sh", *sys.argv[1:]]),
    }
    document = Document(out, content)
    document.write()
    return document


def card(mode: Mode) -> dict[str, Any]:
    """The device by PyTorch, asked in a process that ends: the card stays free."""
    if importlib.util.find_spec("torch") is None:
        raise UnusableError("PyTorch is not installed: pip install 'drift-toolkit[torch]'")
    command = [sys.executable, "-m", "scripts.gpu_bench.machine"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UnusableError(f"PyTorch cannot be used: {asked.stderr.strip().splitlines()[-1]}")
    facts = json.loads(asked.stdout.splitlines()[-1])
    if mode != "tiny" and "memory" not in facts:
        raise UnusableError(
            f"no CUDA device (PyTorch {facts['torch']}, built for CUDA {facts['cuda']}); "
            "--tiny runs every row on the CPU"
        )
    return facts


def measure(document: Document, mode: Mode, rows: list[Row], seconds: float) -> int:
    """Run the rows beside the document; the exit code."""
    backend = "cpu" if mode == "tiny" else "cuda"
    memory = document.content["machine"].get("memory")
    at_once = max(1, min(6, len(os.sched_getaffinity(0)) // (1 if mode == "tiny" else 2)))
    if mode == "tiny":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # rows run side by side
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    print(f"{len(rows)} rows in at most {seconds / 60:g} minutes; {document.path}", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
        plan = Plan(rows, mode, backend, seconds, at_once, memory, Path(folder), PRELOADED)
        run(plan, document, lambda line: print(line, flush=True))
        keep_traces(plan.folder, document.path)
    counts = {"done": 0, "failed": 0, "skipped": 0}
    for outcome in document.content["rows"].values():
        counts[outcome["status"]] += 1
    print(", ".join(f"{count} {status}" for status, count in counts.items()), flush=True)
    return 1 if counts["failed"] or not counts["done"] else 0


def keep_traces(folder: Path, out: Path) -> None:
    """Put profiles beside the document."""
    for trace in sorted(folder.glob("*.json.gz")):
        out.with_name(f"{out.stem}.{trace.name}").write_bytes(trace.read_bytes())


if __name__ == "__main__":
    sys.exit(main())

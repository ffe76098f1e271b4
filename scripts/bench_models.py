"""Real models at full size with random weights: images a second, memory, and what bounds them.

    python scripts/bench_models.py [--case NAME]... [--updates 3] [--out docs/performance-DEVICE.md]
    python scripts/bench_models.py --tiny         # the same code on the CPU, in a minute or two

Each case is a recipe through the trainer itself, in a process of its own, with its published
settings but two prompts an update, a JPEG reward, and no evaluation. The first update warms up
(its share of compiling is told), the next ones are timed, and one more is taken apart: what of it
is spent inside the model. `--trace DIR` also writes a profile of that one. The rate that the device
multiplies matrices at is measured, and with the counted arithmetic gives the bound of each case.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import click

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "SD 1.5, DDPO": ("sd15-compressibility-ddpo", ()),
    "SD 1.5, DDPO, no guidance": ("sd15-compressibility-ddpo", ("rollout.guidance=1.0",)),
    "SD 1.5, DRIFT": ("sd15-compressibility", ()),
    "SD 1.5, 24 GB": ("sd15-24gb-ddpo", ()),
    "SD 3.5 medium, Flow-GRPO": ("sd35m-pickscore-grpo", ()),
    "SD 3.5 medium, Flow-GRPO, compiled": ("sd35m-pickscore-grpo", ("model.compile=true",)),
    "SD 3.5 medium, DRIFT": ("sd35m-pickscore", ()),
    "SD 3.5 medium, fast": ("sd35m-fast-grpo", ()),
    "SD 3.5 medium, fast, compiled": ("sd35m-fast-grpo", ("model.compile=true",)),
    "SD 3.5 medium, fast, DRIFT": ("sd35m-fast", ()),
    "SD 3.5 medium, 24 GB": ("sd35m-24gb-grpo", ()),
    "FLUX.1-dev, Flow-GRPO": ("flux-dev-pickscore-grpo", ()),
}
"""What is measured: with and without guidance, selection and compiling, and on small GPUs."""

EVERY = (
    "reward.terms={jpeg_compressibility = 1.0}",
    "prompts.source=animals",
    "evaluate.every=1000000",
)
SHRUNK = (
    "model.dtype=float32",
    "model.resolution=32",
    "rollout.group_size=4",
    "rollout.steps=6",
    "rollout.batch_size=8",
    "objective.micro_batch=8",
    "adapter.rank=2",
)
"""What `--tiny` changes beside the shapes of the model."""

COLUMNS = {
    "case": "case",
    "images": "images an update",
    "seconds": "s an update",
    "rate": "images/s",
    "sampled": "sampled/s",
    "forwards": "forwards an image",
    "outside": "outside the model",
    "peak": "peak memory",
    "compile": "compiling",
    "bound": "at most, by arithmetic",
}
SIDE = {"cuda": 8192, "cpu": 1024}
"""Rows of the square matrices whose product is timed."""


@click.command()
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), metavar="NAME")
@click.option("--updates", default=3, show_default=True, help="Timed updates of each case.")
@click.option("--prompts", default=2, show_default=True, help="Prompts of an update.")
@click.option("--backend", default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="Tiny shapes on the CPU: shows that all of it works.")
@click.option("--trace", type=click.Path(path_type=Path), help="Folder for a profile of each case.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
@click.option("--worker", hidden=True, help="Be the process of this case.")
def main(
    cases: tuple[str, ...],
    updates: int,
    prompts: int,
    backend: str,
    tiny: bool,
    trace: Path | None,
    out: Path | None,
    worker: str | None,
) -> None:
    """Measure the cases, all of them unless some are named, and print a Markdown table."""
    backend = "cpu" if tiny else backend
    if worker:
        print(json.dumps(measure(worker, updates, prompts, backend, tiny, trace)))
        return
    options = ["--updates", updates, "--prompts", prompts, "--backend", backend]
    options += ["--tiny"] * tiny + (["--trace", trace] if trace else [])
    lines: list[str] = []
    for name in cases or CASES:
        found = in_its_process(name, [str(option) for option in options])
        if not lines:
            lines += heading(found.get("device"), found.get("matrix_rate"))
            print("\n".join(lines), flush=True)
        lines.append(row(name, found))
        print(lines[-1], flush=True)
    if out:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def in_its_process(name: str, options: list[str]) -> dict[str, Any]:
    """What the process of a case measured, or {"failed": its last line}."""
    command = [sys.executable, __file__, "--worker", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def heading(device: str | None, rate: float | None) -> list[str]:
    """The lines above the rows."""
    about = f"{device}, matrix products at {rate / 1e12:.3g} TFLOP/s" if rate else "no case worked"
    return [about, "", f"| {' | '.join(COLUMNS.values())} |", "|" + "---|" * len(COLUMNS)]


def row(name: str, found: dict[str, Any]) -> str:
    """The row of a case."""
    if "failed" in found:
        return f"| {name} | {found['failed']} |" + " |" * (len(COLUMNS) - 2)
    cells = {
        "case": name,
        "images": f"{found['images']:.0f}",
        "seconds": f"{found['seconds']:.2f}",
        "rate": f"{found['images'] / found['seconds']:.2f}",
        "sampled": f"{found['images'] / found['rollout']:.2f}",
        "forwards": f"{found['forwards']}",
        "outside": f"{100 * found['outside']:.1f} %",
        "peak": f"{found['peak'] / 1e9:.1f} GB",
        "compile": f"{found['compile']:.0f} s" if found["compile"] else "-",
        "bound": f"{found['matrix_rate'] / found['flops']:.2f} images/s",
    }
    return f"| {' | '.join(cells[key] for key in COLUMNS)} |"


def measure(
    name: str, updates: int, prompts: int, backend_name: str, tiny: bool, trace: Path | None
) -> dict[str, Any]:
    """Run a case: seconds and rollout seconds are medians of the timed updates."""
    import torch

    from common.backends import load

    backend = load(backend_name)
    config = configured(name, prompts, updates, backend_name, tiny)
    with trained(config, backend, tiny) as trainer:
        first = trainer.step()
        if backend_name == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rows = [trainer.step() for _ in range(updates)]
        peak = backend.device_memory()["peak"]
        outside = share_outside(trainer, backend.synchronize, trace and trace / f"{name}.json")
        plan = trainer.plan()
    return {
        "device": backend.describe()["device"] or platform.machine(),
        "images": rows[0]["images"],
        "seconds": statistics.median(row["seconds"] for row in rows),
        "rollout": statistics.median(row["time/rollout"] for row in rows),
        "forwards": plan["forwards_per_image"],
        "outside": outside,
        "peak": peak,
        "compile": first.get("time/compile", 0.0),
        "flops": arithmetic(config, rows, tiny),
        "matrix_rate": matrix_rate(backend, config.model.dtype),
    }


def configured(name: str, prompts: int, updates: int, backend: str, tiny: bool) -> Any:
    """The configuration of a case."""
    from common import config as configuration

    recipe, changes = CASES[name]
    own = (f"rollout.prompts={prompts}", f"run.updates={updates + 2}", f"run.backend={backend}")
    shrunk = SHRUNK if tiny else ()
    if tiny and not recipe.startswith("sd15"):
        shrunk = (*shrunk, "model.max_tokens=20")
    return configuration.load(recipe, [*EVERY, *own, *changes, *shrunk])


@contextmanager
def trained(config: Any, backend: Any, tiny: bool) -> Iterator[Any]:
    """The trainer of a configuration, whose model has random weights."""
    from common.runs.directory import RunDirectory
    from common.trainer import Silent, Trainer
    from drift_torch.full_size import policy

    def random(model: Any, adapter: Any, *, seed: int) -> Any:
        return policy(model, adapter, device=backend.device, tiny=tiny)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(backend, "policy", random):
        run = RunDirectory.create(Path(folder) / "run", config, {})
        yield Trainer(config, backend, run, observer=Silent(), stop=threading.Event())


def share_outside(trainer: Any, settle: Callable[[], None], trace: Path | None) -> float:
    """The part of an update that is spent neither in the model nor in its gradients."""
    inside, depth = [0.0], [0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **how: Any) -> Any:
            settle()
            start = time.perf_counter()
            depth[0] += 1
            try:
                return function(*arguments, **how)
            finally:
                settle()
                depth[0] -= 1
                if not depth[0]:  # a prediction inside a gradient is counted there
                    inside[0] += time.perf_counter() - start

        return call

    policy, learner = trainer._policy, trainer._learner
    for name in ("predict", "encode", "decode"):
        setattr(policy, name, timed(getattr(policy, name)))
    learner._gradients = timed(learner._gradients)
    with traced(trace) if trace else nullcontext():
        seconds = trainer.step()["seconds"]
    return max(1.0 - inside[0] / seconds, 0.0)


@contextmanager
def traced(path: Path) -> Iterator[None]:
    """Within it PyTorch's profiler records; the file opens in a browser's trace viewer."""
    from torch.profiler import profile

    path.parent.mkdir(parents=True, exist_ok=True)
    with profile() as record:
        yield
    record.export_chrome_trace(str(path))
    print(record.key_averages().table(row_limit=20), file=sys.stderr)


def arithmetic(config: Any, rows: list[dict[str, float]], tiny: bool) -> float:
    """Floating-point operations for one image, of which a part was selected for learning."""
    from estimate_models import flops

    from drift_torch.full_size import without_content

    found = flops(without_content(config.model, config.adapter, tiny=tiny), config)
    selected = statistics.mean(row["subset/size"] for row in rows) / config.rollout.group_size
    return found["sampling"] + selected * found["learning"]


def matrix_rate(backend: Any, dtype: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of square matrix products in a type."""
    import torch

    side, settle = SIDE[backend.name], backend.synchronize
    kind = getattr(torch, dtype)
    a, b = (torch.randn(side, side, device=backend.device).to(kind) for _ in range(2))
    for _ in range(3):
        torch.mm(a, b)
    settle()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            torch.mm(a, b)
        settle()
        count += 10
    return 2 * side**3 * count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()

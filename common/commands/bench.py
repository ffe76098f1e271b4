"""`drift doctor --bench`: how fast this machine is, as a block of Markdown to copy."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from common.commands.errors import FAILED
from common.errors import WRONG_REQUEST, RequestError, preparing

if TYPE_CHECKING:
    from rich.progress import TaskID

    from common.backends import Backend
    from common.machine.bench import Case, Measurement

HOW = (
    "weights are random; seconds are the median of {timed} after one that warmed up\n"
    "a forward pass is unguided; an update samples, scores and learns\n"
    "peak memory is the device's, of backend cpu the whole process's"
)


def bench(
    ctx: click.Context,
    names: Sequence[str],
    models: Sequence[str],
    changes: Sequence[str],
    as_json: bool,
) -> None:
    """Measure models on backends and print the results.

    names, models: what to measure; empty means what suits this machine. changes: to the recipes,
    as TABLE.KEY=VALUE.

    The exit code is 1 when a measurement failed and 2 when a requested one is impossible. The
    other measurements are printed in both cases.
    """
    with preparing():
        check_models(models)
        engines = _backends(names)
    before = _load()
    with _progress() as on_stage:
        measurements, skipped, code = measure(engines, models, changes, on_stage)
    if not measurements:
        raise RequestError("; ".join(skipped)) if code == WRONG_REQUEST else _broken(skipped)
    facts = _facts(engines, f"{before} processes before, {_load()} after")
    facts |= {"settings": ", ".join(changes)} if changes else {}
    if as_json:
        click.echo(json.dumps(_plain(facts, measurements, skipped), indent=2))
    else:
        click.echo(block(facts, measurements, skipped))
    ctx.exit(code)


def check_models(models: Sequence[str]) -> None:
    """Raise RequestError for an unknown model."""
    from common.config import closest
    from common.machine import bench

    for model in models:
        if model not in bench.MODELS:
            valid = ", ".join(bench.MODELS)
            raise RequestError(f"--model {model}{closest(model, bench.MODELS)} (valid: {valid})")


def measure(
    engines: Mapping[str, "Backend"],
    models: Sequence[str],
    changes: Sequence[str],
    on_stage: Callable[["Case", str], None],
) -> tuple[list["Measurement"], list[str], int]:
    """The measurements, the reason for each one that is missing, and the exit code.

    Without models: the embedded one, and on a GPU the largest real one that fits.
    """
    from common.machine import bench

    measurements: list[Measurement] = []
    skipped: list[str] = []
    code = 0

    def attempt(case: "Case") -> int:
        """Measure one case; returns its exit code."""
        try:
            measurements.append(
                bench.measure_in_subprocess(case, lambda text: on_stage(case, text))
            )
        except bench.RefusedError as error:
            skipped.append(str(error))
            return WRONG_REQUEST
        except bench.FailedError as error:
            skipped.append(f"{case.model} broke on {case.backend}: {error}")
            return FAILED
        return 0

    for name, engine in engines.items():
        for model in models or (bench.EMBEDDED,):
            code = max(code, attempt(bench.Case(name, model, tuple(changes))))
        if models:
            continue
        if engine.gpu:
            for model in bench.REAL:  # the user did not ask for one that does not fit
                if (outcome := attempt(bench.Case(name, model, tuple(changes)))) != WRONG_REQUEST:
                    code = max(code, outcome)
                    break
        else:
            others = ", ".join(reversed(bench.REAL))
            skipped.append(f"{others} skipped on {name}: no GPU; --model sd15 runs it anyway")
    return measurements, skipped, code


def block(
    facts: Mapping[str, str], measurements: Sequence["Measurement"], skipped: Sequence[str]
) -> str:
    """Facts, measurements and what was skipped, as fenced Markdown with aligned tables."""
    from common.machine.bench import TIMED

    rows = [
        {
            "backend": each.backend,
            "model": each.model,
            "weights": each.dtype,
            "pixels": str(each.pixels),
            "forward": f"{_seconds(each.forward)} of {each.batch}",
            "update": f"{_seconds(each.update)} of {each.images}",
            "images/s": f"{each.images_per_second:.3g}",
            "peak memory": f"{each.peak / 1e9:.2f} GB",
        }
        for each in measurements
    ]
    updates = {each.model: _workload(each) for each in measurements}
    lines = [
        "```",
        *_aligned([list(pair) for pair in facts.items()]),
        "",
        *_aligned([list(rows[0]), *(list(row.values()) for row in rows)]),
        "",
        *(f"{model}: {what}" for model, what in updates.items()),
        *HOW.format(timed=TIMED).splitlines(),
        *skipped,
        "```",
    ]
    return "\n".join(lines)


def _workload(one: "Measurement") -> str:
    guided = "no guidance" if one.guidance == 1.0 else f"guidance {one.guidance:g}"
    steps = f"{one.steps} steps, {one.trained} of them trained"
    return f"an update is {one.images} images of {steps}, {guided}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["   ".join(row).rstrip() for row in cells]


def _backends(names: Sequence[str]) -> dict[str, "Backend"]:
    """The backends that the user named, or all that work here."""
    from common import backends
    from common.backends import BackendUnavailableError

    wanted = [backends.best() if name == "auto" else name for name in names]
    if wanted:
        return {name: backends.load(name) for name in wanted}
    probed = {name: backends.probe(name) for name in backends.names()}
    works = {
        name: engine
        for name, engine in probed.items()
        if not isinstance(engine, BackendUnavailableError)
    }
    return works or {
        (name := backends.best()): backends.load(name)
    }  # its error says what is missing


def _facts(engines: Mapping[str, "Backend"], load: str) -> dict[str, str]:
    from common import machine

    descriptions = {
        name: ", ".join(f"{key} {fact}" for key, fact in engine.describe().items())
        for name, engine in engines.items()
    }
    return {**machine.facts(), "load": load, **descriptions}


def _load() -> str:
    """Mean number of processes that were running or ready to run in the last minute."""
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except OSError:
        return "unknown"


def _broken(skipped: Sequence[str]) -> Exception:
    from common.machine.bench import FailedError

    return FailedError("; ".join(skipped))


def _plain(
    facts: Mapping[str, str], measurements: Sequence["Measurement"], skipped: Sequence[str]
) -> dict[str, Any]:
    rows = [{**asdict(each), "images_per_second": each.images_per_second} for each in measurements]
    return {"machine": dict(facts), "measurements": rows, "skipped": list(skipped)}


@contextmanager
def _progress() -> Iterator[Callable[["Case", str], None]]:
    """Show the stages on stderr: a bar for each case on a terminal, else lines."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from common.machine.bench import STAGES

    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[Case, TaskID] = {}

    def on_stage(case: "Case", text: str) -> None:
        line = f"{case.backend}, {case.model}: {text}"
        if not console.is_terminal:
            click.echo(line, err=True)
        elif case in tasks:
            bar.update(tasks[case], description=line, advance=1)
        else:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[case] = bar.add_task(line, total=STAGES)

    with bar:
        yield on_stage

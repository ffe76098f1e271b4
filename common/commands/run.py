"""`drift run`: fine-tune, watch, stop and go on."""

import os
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.backends import Backend
    from common.config import Config
    from common.console import RunDisplay
    from common.runs.directory import RunDirectory

RECIPE = "emoji"
SHOW_CURSOR = b"\x1b[?25h"


@click.command(short_help="Fine-tune a model, or go on with a run.")
@click.argument("recipe", required=False)
@click.option("--backend", metavar="auto|mlx|cuda|cpu", help="Where to run; auto: the best here.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Change one key of the recipe; as often as you like.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run directory.  [default: runs/RECIPE-BACKEND-seedN]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--dry-run", is_flag=True, help="Check everything, show sizes and memory, and do nothing."
)
@click.pass_context
def run(
    ctx: click.Context,
    recipe: str | None,
    backend: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    dry_run: bool,
) -> None:
    """Fine-tune a model as RECIPE says: a name that `drift recipes` lists, or a TOML file.

    Without RECIPE it is the embedded emoji model, which needs no download. The run ends with a
    report. Ctrl-C and SIGTERM finish the update at hand and save; a second one aborts at once.
    --resume goes on with the stored configuration, or with RECIPE and --set where they fit it.
    """
    if backend:
        overrides = (*overrides, f"run.backend={backend}")
    from common.console import console
    from common.rewards import hosts

    ctx.with_resource(hosts.named_in(overrides))
    if dry_run:
        _rehearse(recipe, overrides, resume=resume)
        return
    stop = threading.Event()
    with ExitStack() as until_done:
        with preparing(), console.status("loading"):
            from common.trainer import Trainer

            prepare = _reopen if resume else _create
            directory, engine, config = prepare(recipe, overrides, out)
            until_done.enter_context(directory.locked())
            if resume:
                directory.check_resumable(config)
            display = _display(directory, engine, config, stop)
            with _unmade_on_failure(directory, made=not resume):
                trainer = Trainer(config, engine, directory, observer=display, stop=stop)
            if resume:  # only now is the request known to be right
                done = trainer.plan()["update"]
                directory.adopt(config, _environment(engine), update=done)
        received = until_done.enter_context(_signals(stop, display))
        with display:
            finished = trainer.run()
    if finished:
        _tell_results(directory)
        return
    _tell_how_to_go_on(directory)
    ctx.exit(128 + received[0])


def _create(
    recipe: str | None, overrides: Iterable[str], out: Path | None
) -> tuple["RunDirectory", "Backend", "Config"]:
    from common import config as configuration
    from common.runs.directory import RunDirectory

    config = configuration.load(recipe or RECIPE, overrides)
    engine = _backend(config.run.backend)
    config = _on(engine, config)
    settings = config.run
    wanted = Path("runs") / f"{settings.recipe}-{settings.backend}-seed{settings.seed}"
    directory = RunDirectory.create(out or _free(wanted), config, _environment(engine))
    return directory, engine, config


def _reopen(
    recipe: str | None, overrides: Iterable[str], out: Path | None
) -> tuple["RunDirectory", "Backend", "Config"]:
    from common import config as configuration
    from common.runs import checkpoint
    from common.runs.directory import CONFIG, RunDirectory

    if out is None:
        raise RequestError("--resume needs --out DIR: which run to go on with")
    directory = RunDirectory.open(out)
    config = configuration.load(recipe or str(out / CONFIG), overrides)
    name = config.run.backend
    engine = _backend(directory.config.run.backend if name == "auto" else name)
    config = _on(engine, config)
    newest = checkpoint.latest(directory.checkpoints)
    if newest is not None and int(newest.name) > config.run.updates:
        raise RequestError(
            f"{out} is at update {int(newest.name)} already; "
            f"run.updates = {config.run.updates} lies behind it"
        )
    return directory, engine, config


def _rehearse(recipe: str | None, overrides: Iterable[str], *, resume: bool) -> None:
    """Load all that a run needs, and tell how large it is."""
    from tempfile import TemporaryDirectory

    from common.console import console, pairs
    from common.trainer import NullObserver, Trainer

    if resume:
        raise RequestError("--dry-run is about a new run; leave out --resume")
    with TemporaryDirectory(prefix="drift-dry-run-") as folder:
        with preparing(), console.status("loading"):
            directory, engine, config = _create(recipe, overrides, Path(folder) / "run")
            trainer = Trainer(
                config, engine, directory, observer=NullObserver(), stop=threading.Event()
            )
        with console.status("estimating memory"):
            memory = trainer.memory()
    plan = trainer.plan()
    del plan["update"]
    sizes = {f"memory, {stage}": f"{size / 1e9:.2f} GB" for stage, size in memory.items()}
    peak = {"memory at its peak": f"{max(memory.values()) / 1e9:.2f} GB"} if memory else {}
    pairs({"recipe": config.run.recipe, "backend": engine.name, **plan, **sizes, **peak})


def _backend(name: str) -> "Backend":
    from common import backends

    return backends.load(backends.best() if name == "auto" else name)


def _on(engine: "Backend", config: "Config") -> "Config":
    """The configuration with the backend that `auto` stands for."""
    resolved = config.run.model_copy(update={"backend": engine.name})
    return config.model_copy(update={"run": resolved})


def _environment(engine: "Backend") -> dict[str, str]:
    """What this start of a run is computed on."""
    from common import machine

    return {"backend": engine.name, **machine.facts(), **engine.describe()}


def _free(path: Path) -> Path:
    """The path itself, or with the first of -2, -3, ... that nothing is called yet."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _display(
    directory: "RunDirectory", engine: "Backend", config: "Config", stop: threading.Event
) -> "RunDisplay":
    from common.console import RunDisplay, say

    for line in engine.advice():
        say(f"advice: {line}")
    facts = {
        "run": directory.path,
        "recipe": config.run.recipe,
        "backend": engine.name,
        "device": engine.describe().get("device", "unknown"),
    }
    return RunDisplay(config.run.updates, stop, facts, directory.evaluations())


@contextmanager
def _unmade_on_failure(directory: "RunDirectory", *, made: bool) -> Iterator[None]:
    """Take back a run directory that was made for a request which then proved to be wrong."""
    from common.runs.directory import CONFIG, ENVIRONMENT

    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                for name in (CONFIG, ENVIRONMENT):
                    (directory.path / name).unlink()
                directory.path.rmdir()
        raise


@contextmanager
def _signals(stop: threading.Event, display: "RunDisplay") -> Iterator[list[int]]:
    """Within it the first Ctrl-C or SIGTERM only asks for a stop; the second one kills.

    Gives the list of the signals received. Nothing is lost by the second: files of a run are
    whole at any moment.
    """
    received: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop.set()
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        # Only os.write may interrupt a print that is under way.
        if display.live:
            os.write(1, SHOW_CURSOR)
        else:
            os.write(2, f"drift: {display.STOPPING}\n".encode())

    previous = {each: signal.signal(each, ask) for each in handled}
    try:
        yield received
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _tell_how_to_go_on(directory: "RunDirectory") -> None:
    from common.console import say
    from common.runs import checkpoint

    newest = checkpoint.latest(directory.checkpoints)
    done = 0 if newest is None else int(newest.name)
    say(f"stopped after update {done} of {directory.config.run.updates}; go on with")
    say(f"  drift run --resume --out {shlex.quote(str(directory.path))}")


def _tell_results(directory: "RunDirectory") -> None:
    from common import report
    from common.console import results, say
    from common.runs import checkpoint

    evaluations = directory.evaluations()
    say("")
    results(evaluations[0], evaluations[-1])
    say("")
    say(f"report      {report.build(directory)}")
    say(f"checkpoint  {checkpoint.latest(directory.checkpoints)}")

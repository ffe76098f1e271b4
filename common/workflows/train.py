"""Training from start to end: make or reopen a run, watch it, stop it, write its report."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from common import backends, config as configuration, consent, machine, prompts, reading, report
from common.backends import Backend
from common.config import Config, Overrides
from common.consent import Consent
from common.console import RunDisplay, console, results, say
from common.errors import RequestError, preparing
from common.learning import agreement
from common.progress import NullObserver
from common.rewards import check_names, held_out, hosts
from common.runs import checkpoint, files
from common.runs.directory import BEGAN, CONFIG, ENVIRONMENT, RunDirectory
from common.trainer import Trainer
from common.workflows import interrupts
from common.workflows.interrupts import Interrupts
from common.workflows.run import Run

RECIPE = "emoji"

Recipe = str | PathLike[str] | Config
"""The name of a shipped recipe, the path of a TOML file, or a whole configuration."""


def train(
    recipe: Recipe | None = None,
    *,
    set: Mapping[str, Any] | None = None,
    backend: str | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    trust: bool = False,
    resume_from: int | None = None,
) -> Run:
    """Fine-tune a model, or go on with a run; the Python form of `drift run`.

    Ctrl-C (a notebook's stop button) finishes the update at hand, saves, and returns the run with
    `run.finished` False; a second one raises KeyboardInterrupt at once.

    Args:
        recipe: a name that `drift recipes` lists, the path of a TOML file, or a `Config`. Without
            one it is the embedded emoji model; with resume, the run's stored configuration.
        set: keys to change, as {"run.updates": 24}; {"reward.terms.mine": 1.0} replaces the
            recipe's terms, so name all that you want.
        backend: "mlx", "cuda", "cpu", or "auto" for the best one here.
        out: the folder of the run; None: runs/RECIPE-BACKEND-seedN, or the first free one after it.
        resume: go on with the run in `out`.
        progress: show the plan, the progress and the results; False prints nothing.
        trust: let the recipe's file, or the run that is resumed, import the code that it names;
            what `set` names needs no trust.
        resume_from: with resume, go back to the checkpoint after that update (0: to the start);
            newer ones are set aside.

    Returns:
        The run, with a report when it is finished.

    Raises:
        drift.RequestError: something that was asked for is wrong; nothing was computed.
        drift.Error: the work failed; checkpoints stay intact. The text is always one line.
    """
    if resume and out is None:
        raise RequestError("resume=True needs out: the folder of the run to go on with")
    changes = dict(set or {}) | ({"run.backend": backend} if backend else {})
    caught = interrupts.of_python()
    run = fine_tune(
        recipe,
        changes,
        out=None if out is None else Path(out),
        resume=resume,
        interrupts=caught,
        progress=progress,
        trust=trust,
        resume_from=resume_from,
    )
    if progress and not run.finished:
        say(f"stopped after update {run.update} of {run.config.run.updates}; go on with")
        say(f"  drift.train(resume=True, out={str(run.path)!r})")
    return run


def fine_tune(
    recipe: Recipe | None,
    overrides: Overrides,
    *,
    out: Path | None,
    resume: bool,
    interrupts: Interrupts,
    progress: bool,
    trust: bool,
    resume_from: int | None,
) -> Run:
    """What `train` and the command share; returns the run, finished or stopped.

    Raises the errors of `train`.
    """
    if resume_from is not None and not resume:
        raise RequestError("--from N goes back in a run: it needs --resume")
    began = time.perf_counter()
    with ExitStack() as until_done:
        until_done.enter_context(hosts.named_in(overrides))
        consented = until_done.enter_context(consent_required(recipe, overrides, out, trust))
        with preparing(), _status("loading", progress):
            prepare = _reopen if resume else create
            directory, engine, config = prepare(recipe, overrides, out)
            until_done.enter_context(directory.locked())
            directory.sweep()
            if resume:
                directory.check_resumable(config)
            display = None
            if progress:
                terms = reward_terms_text(recipe if resume else recipe or RECIPE, config)
                display = _display(directory, engine, config, interrupts, terms)
            observer = display or NullObserver()
            with _removed_on_failure(directory, made=not resume):
                trainer = Trainer(
                    config,
                    engine,
                    directory,
                    observer=observer,
                    stop=interrupts.stop,
                    resume_from=resume_from,
                )
            if resume:  # only now is the request known to be right
                done = trainer.plan()["update"]
                directory.adopt(config, _environment(engine), update=done)
        live = (lambda: display.live) if display else (lambda: False)
        if consented.used:  # what runs here may run again when this run is measured
            consent.remember(directory.path, consented.used)
        until_done.enter_context(interrupts.caught(RunDisplay.STOPPING, live))
        with display or nullcontext(), _end_recorded(directory, began) as ended:
            finished = trainer.run()
            ended["as"] = "finished" if finished else "stopped"
    if finished:
        _write_report(directory, progress=progress)
        if progress and (line := agreement.warning(directory.metrics())):
            say(f"\nwarning: {line}")
    return Run(directory)


def consent_required(
    recipe: Recipe | None, overrides: Overrides, out: Path | None, trust: bool
) -> AbstractContextManager[Consent]:
    """Consent to the demands of the recipe's file or of the stored run; a `Config` needs none."""
    if isinstance(recipe, Config):
        return consent.required_for(None, overrides, trust=True)
    stored = out if recipe is None else None
    file = Path(recipe) if recipe is not None and str(recipe).endswith(".toml") else None
    return consent.required_for(file or stored, overrides, trust=trust)


def load_config(recipe: Recipe = RECIPE, set: Mapping[str, Any] | None = None) -> Config:
    """The whole configuration of a recipe, with some keys changed; raises ConfigError.

    Args:
        recipe: a shipped name, the path of a TOML file, or a configuration.
        set: keys to change, as {"run.updates": 24}.
    """
    return _config(recipe, set or {})


def _config(recipe: Recipe, overrides: Overrides) -> Config:
    if isinstance(recipe, Config):
        return configuration.changed(recipe, overrides)
    return configuration.load(str(recipe), overrides)


def create(
    recipe: Recipe | None, overrides: Overrides, out: Path | None
) -> tuple[RunDirectory, Backend, Config]:
    """The folder of a new run, the backend, and the configuration with its name."""
    config = _config(RECIPE if recipe is None else recipe, overrides)
    if out is not None:
        RunDirectory.check_free(out)
    _check_names(config)
    engine = _backend(config.run.backend)
    config = _on(engine, config)
    settings = config.run
    if out is None:
        wanted = Path("runs") / f"{settings.recipe}-{settings.backend}-seed{settings.seed}"
        out = next(path for path in files.numbered(wanted) if _is_free(path))
    directory = RunDirectory.create(out, config, _environment(engine))
    return directory, engine, config


def _reopen(
    recipe: Recipe | None, overrides: Overrides, out: Path | None
) -> tuple[RunDirectory, Backend, Config]:
    if out is None:
        raise RequestError("--resume needs --out DIR: which run to go on with")
    directory = RunDirectory.open(out)
    config = _config(out / CONFIG if recipe is None else recipe, overrides)
    _check_names(config)
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


def _check_names(config: Config) -> None:
    """Refuse prompts, rewards and features that are not there before a library is loaded."""
    prompts.load(config.prompts)
    check_names(config)
    held_out.check(config.reward, config.evaluate.scorers)


def _backend(name: str) -> Backend:
    return backends.load(backends.best() if name == "auto" else name)


def _on(engine: Backend, config: Config) -> Config:
    """The configuration with the backend that `auto` stands for."""
    resolved = config.run.model_copy(update={"backend": engine.name})
    return config.model_copy(update={"run": resolved})


def _environment(engine: Backend) -> dict[str, str]:
    """The machine and the software of this start of a run."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {BEGAN: now, "backend": engine.name, **machine.facts(), **engine.describe()}


@contextmanager
def _end_recorded(directory: RunDirectory, began: float) -> Iterator[dict[str, str]]:
    """Write down how a start ended: what the body puts under "as", or the error that left it."""
    ended: dict[str, str] = {}
    try:
        yield ended
    except BaseException as error:
        why = reading.printable(str(error)) or type(error).__name__
        with suppress(OSError, RequestError):  # the first error is what counts
            directory.end_start(f"failed: {why}", time.perf_counter() - began)
        raise
    with suppress(OSError, RequestError):  # the run itself is whole
        directory.end_start(ended["as"], time.perf_counter() - began)


def _is_free(path: Path) -> bool:
    """Whether a run may be made there: nothing is there but what a killed start has left."""
    return not path.exists() or RunDirectory.is_abandoned(path)


def _status(text: str, progress: bool) -> Any:
    return console.status(text) if progress else nullcontext()


def reward_terms_text(recipe: Recipe | None, config: Config) -> str:
    """What the run maximises, and the terms of its recipe that were replaced.

    recipe: the one below the user's changes; None for a stored configuration.
    """
    before = {} if recipe is None else _config(recipe, ()).reward.terms
    gone = [f"{name} = {w:g}" for name, w in before.items() if name not in config.reward.terms]
    replaced = f", in place of the recipe's {', '.join(gone)}" if gone else ""
    return config.reward.summary + replaced


def _display(
    directory: RunDirectory,
    engine: Backend,
    config: Config,
    interrupts: Interrupts,
    reward_terms: str,
) -> RunDisplay:
    for line in engine.advice():
        say(f"advice: {line}")
    facts = {
        "run": directory.path,
        "recipe": config.run.recipe,
        "backend": engine.name,
        "device": engine.describe().get("device", "unknown"),
        "reward_terms": reward_terms,
    }
    return RunDisplay(config.run.updates, interrupts.stop, facts, directory.evaluations())


@contextmanager
def _removed_on_failure(directory: RunDirectory, *, made: bool) -> Iterator[None]:
    """Remove a run directory that was made for a request which then proved to be wrong."""
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                for name in (CONFIG, ENVIRONMENT):
                    (directory.path / name).unlink()
                directory.path.rmdir()
        raise


def _write_report(directory: RunDirectory, *, progress: bool) -> None:
    if not progress:
        report.build(directory)
        return
    evaluations = directory.evaluations()
    say("")
    results(evaluations[0], evaluations[-1])
    say("")
    say(f"report      {report.build(directory)}")
    say(f"checkpoint  {checkpoint.latest(directory.checkpoints)}")

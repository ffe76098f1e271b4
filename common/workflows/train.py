"""Training from start to end: make or reopen a run, watch it, stop it, write its report."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from common.progress import Observer, Observers
from common.rewards import check_names, held_out, hosts
from common.runs import checkpoint, files
from common.runs.directory import BEGAN, CONFIG, ENVIRONMENT, FAILED, RunDirectory
from common.tracking import Trackers, check as check_trackers
from common.trainer import Trainer
from common.workflows import alike, interrupts
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
        progress: show the plan, the progress and the results; False prints warnings alone.
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
    observers: Sequence[Observer] = (),
) -> Run:
    """What `train` and the command share; returns the run, finished or stopped.

    observers: receive the events too, in process 0. Raises the errors of `train`.
    """
    if resume_from is not None and not resume:
        raise RequestError("--from N goes back in a run: it needs --resume")
    began = time.perf_counter()
    trackers = Trackers()
    with ExitStack() as until_done:
        until_done.push(trackers.close_on_error)
        until_done.enter_context(hosts.named_in(overrides))
        consented = until_done.enter_context(consent_required(recipe, overrides, out, trust))
        with preparing(), _status("loading", progress):
            prepare = _reopened if resume else _configured
            engine, config = prepare(recipe, overrides, out)
            engine.connect()
            until_done.callback(engine.world.close)
            alike.check_settings(engine, config)
            leads = engine.world.rank == 0
            progress = progress and leads

            directory = _shared_folder(engine, config, out, resume, until_done)
            display = None
            if progress:
                terms = reward_terms_text(recipe if resume else recipe or RECIPE, config)
                display = _display(directory, engine, config, interrupts, terms)
            own: list[Observer] = [display] if display else []
            if leads:
                own += [*observers, trackers.follow(directory, config)]
            with _removed_on_failure(directory, made=leads and not resume):
                trainer = Trainer(
                    config,
                    engine,
                    directory,
                    observer=Observers(own),
                    stop=interrupts.stop,
                    resume_from=resume_from,
                )
                alike.check_files(engine, config, prompts.load(config.prompts), trainer.rewards)
            if resume:  # only now is the request known to be right
                done, environment = trainer.plan()["update"], _environment(engine)
                engine.world.lead(
                    lambda: directory.adopt(config, environment, update=done), "opening the run"
                )
        live = (lambda: display.live) if display else (lambda: False)
        if consented.used and leads:  # what runs here may run again when this run is measured
            consent.remember(directory.path, consented.used)
        until_done.enter_context(interrupts.caught(RunDisplay.STOPPING if leads else "", live))
        recorded = _end_recorded(directory, began) if leads else nullcontext({})
        with display or nullcontext(), recorded as ended:
            finished = trainer.run()
            ended["as"] = "finished" if finished else "stopped"
        if not finished:  # by a signal to one of the processes
            heard = engine.world.share(lambda: list(interrupts.received), "stopping")
            interrupts.received = [number for each in heard for number in each]
    with trackers:
        if finished and leads:
            _write_report(directory, progress=progress)
            trackers.finished(directory)
            _warn_of_noise(directory, progress=progress)
    return Run(directory)


def _shared_folder(
    engine: Backend, config: Config, out: Path | None, resume: bool, until_done: ExitStack
) -> RunDirectory:
    """The run's folder, made or opened and locked by process 0."""

    def opened() -> str:
        folder = RunDirectory.open(out) if resume and out else _made(engine, config, out)
        until_done.enter_context(folder.locked())
        folder.sweep()
        if resume:
            folder.check_resumable(config)
        return str(folder.path)

    path = Path(engine.world.lead(opened, "opening the run"))
    return RunDirectory.open(path) if resume else RunDirectory(path, config)


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
    engine, config = _configured(recipe, overrides, out)
    return _made(engine, config, out), engine, config


def _configured(
    recipe: Recipe | None, overrides: Overrides, out: Path | None
) -> tuple[Backend, Config]:
    """The backend and the configuration of a new run, whose folder can be made."""
    config = _config(RECIPE if recipe is None else recipe, overrides)
    if out is not None:
        RunDirectory.check_free(out)
    _check_names(config)
    engine = _backend(config.run.backend)
    return engine, _on(engine, config)


def _made(engine: Backend, config: Config, out: Path | None) -> RunDirectory:
    """The folder of a new run."""
    settings = config.run
    if out is None:
        wanted = Path("runs") / f"{settings.recipe}-{settings.backend}-seed{settings.seed}"
        out = next(path for path in files.numbered(wanted) if _is_free(path))
    return RunDirectory.create(out, config, _environment(engine))


def _reopened(
    recipe: Recipe | None, overrides: Overrides, out: Path | None
) -> tuple[Backend, Config]:
    """The backend and the configuration of a run that is gone on with."""
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
    return engine, config


def _check_names(config: Config) -> None:
    """Refuse prompts, rewards, features and trackers that are not there, before long work."""
    prompts.load(config.prompts)
    check_names(config)
    held_out.check(config.reward, config.evaluate.scorers)
    check_trackers(config.track)


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
            directory.end_start(f"{FAILED}{why}", time.perf_counter() - began)
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
    evaluations, size = directory.evaluations(), engine.world.size
    return RunDisplay(config.run.updates, interrupts.stop, facts, evaluations, size)


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


def _warn_of_noise(directory: RunDirectory, *, progress: bool) -> None:
    if line := agreement.warning(directory.metrics()):
        if progress:
            say(f"\nwarning: {line}")
        else:
            warnings.warn(line, stacklevel=2)

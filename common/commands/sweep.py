"""`drift sweep`: train every recipe with every value and seed that has no finished run yet."""

import os
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from common.commands import complete
from common.commands.errors import FAILED
from common.commands.path_type import FilePath
from common.commands.settings import SettingsCommand, updates_option, with_short_forms
from common.commands.trust import trust_option
from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.sweep.board import Board
    from common.sweep.cluster import Launcher
    from common.sweep.jobs import Outcome, Task
    from common.sweep.plan import Planned, Progress

LOGS = "logs"


class Seeds(click.ParamType):
    """Whole numbers with commas between them, and ranges of them."""

    name = "seeds"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers of a text such as 0,1,2 or 0-2; a range has at most 1,000."""
        seeds: list[int] = []
        for part in str(value).split(","):
            first, dash, last = (word.strip() for word in part.partition("-"))
            numbers = (first, last) if dash else (first, first)
            if not all(number.isdecimal() for number in numbers):
                self.fail(f"'{value}': write whole numbers, as 0,1,2 or 0-2", param, ctx)
            start, stop = map(int, numbers)
            if not 0 <= stop - start < 1000:
                self.fail(f"'{part.strip()}': write a range as 0-4, lowest first", param, ctx)
            seeds += range(start, stop + 1)
        return tuple(seeds)


class SweepCommand(SettingsCommand):
    """`drift sweep`, which sets seeds and names by options of its own."""

    set_otherwise = ("run.seed", "run.recipe")


@click.command(
    cls=SweepCommand, short_help="Run recipes over values and seeds; go on where it stopped."
)
@click.argument(
    "recipes", metavar="RECIPE...", nargs=-1, required=True, shell_complete=complete.recipes
)
@click.option(
    "--over",
    multiple=True,
    metavar="TABLE.KEY=V1,V2,...",
    help="Values of one key; with several, all their combinations. A value may be a list: [0, 1].",
)
@click.option("--seeds", type=Seeds(), metavar="0-4,9", help="Seeds.  [default: each recipe's]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    shell_complete=complete.settings,
    metavar="TABLE.KEY=VALUE",
    help="Change one key of all recipes; more than once for more. reward.terms.NAME replaces the "
    "recipe's terms: name all that you want.",
)
@updates_option
@click.option(
    "--out",
    type=FilePath(file_okay=False),
    required=True,
    metavar="DIR",
    help="The folder of the run directories.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time."
)
@click.option(
    "--launcher",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="Where the runs go: processes here, or jobs of SLURM (needs the extra slurm).",
)
@click.option(
    "--slurm",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --launcher slurm: a setting of its jobs, as partition=gpu, gpus_per_node=1, "
    "cpus_per_task=8, timeout_min=600.",
)
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    shell_complete=complete.backends,
    help="Where to run; auto: the best here.",
)
@click.option("--eval", "evaluate", is_flag=True, help="Also `drift eval` each finished run.")
@click.option(
    "--eval-options",
    metavar="WORDS",
    help="Options that --eval passes on, as '--split validation --images 24'; implies --eval.",
)
@click.option("--dry-run", is_flag=True, help="Print the commands and do nothing.")
@trust_option
@click.pass_context
def sweep(
    ctx: click.Context,
    recipes: tuple[str, ...],
    over: tuple[str, ...],
    seeds: tuple[int, ...] | None,
    overrides: tuple[str, ...],
    updates: int | None,
    out: Path,
    jobs: int,
    launcher: str,
    slurm: tuple[str, ...],
    backend: str | None,
    evaluate: bool,
    eval_options: str | None,
    dry_run: bool,
    trust: bool,
) -> None:
    """Run every RECIPE with every combination of values for every seed, each in DIR/NAME.

    A run is named after its recipe, the keys of --over and its seed, as
    emoji-kl-kl_weight=0.04-seed0. Finished runs are skipped and unfinished ones go on, so the
    same command again continues a sweep, and one with more values or seeds extends it. Each run
    is a process with its share of the cores, or a job of SLURM; it writes to DIR/logs/NAME.log. A
    failed run is reported, and the others go on. Ctrl-C and SIGTERM let all runs save; a second one
    aborts.
    """
    from common.rewards import hosts
    from common.sweep import jobs as pool, plan as planning
    from common.sweep.board import Board

    overrides = with_short_forms(overrides, {"--updates": updates})
    with preparing():
        settings = _queue_settings(launcher, slurm)
        _check_backend(backend)
        runs = planning.plan(
            recipes, over=over, seeds=seeds or (), overrides=overrides, backend=backend
        )
        states = {run.name: planning.progress(run, out / run.name) for run in runs}
        measured = _eval_words(backend, eval_options) if evaluate or eval_options else None
    passed = ("--trust",) if trust else ()
    tasks = _tasks(runs, states, out, backend=backend, measured=measured, passed=passed)
    if dry_run:
        _print_plan(runs, states, tasks)
        return
    launch = _launch(launcher, settings, out)
    board = Board(tasks, {run.name: run.config.run.updates for run in runs}, out)
    ctx.with_resource(hosts.named_in(text for run in runs for text in run.overrides))
    with _signals(board) as received, board:
        outcomes = pool.run(
            tasks, at_once=jobs, observer=board, asked=received.__len__, launch=launch
        )
    _print_results(runs, states, outcomes, board, out)
    if received:
        click.echo(f"stopped; go on with\n  {shlex.join(_words(ctx.params))}")
        ctx.exit(128 + received[0])
    if "failed" in outcomes.values():
        ctx.exit(FAILED)


def _queue_settings(launcher: str, texts: Sequence[str]) -> dict[str, Any]:
    """The settings of --slurm; RequestError."""
    from common.sweep import cluster

    if texts and launcher == "local":
        raise RequestError("--slurm is about jobs: it needs --launcher slurm")
    return cluster.settings(texts)


def _launch(launcher: str, settings: Mapping[str, Any], out: Path) -> "Launcher | None":
    """What starts the steps; None for processes of this machine."""
    if launcher == "local":
        return None
    from common.sweep import cluster

    with preparing():
        return cluster.launcher(out / LOGS, settings)


def _check_backend(backend: str | None) -> None:
    from common import backends
    from common.config import closest

    known = ["auto", *backends.names()]
    if backend is not None and backend not in known:
        raise RequestError(f"--backend {backend}: no such backend{closest(backend, known)}")


def _eval_words(backend: str | None, options: str | None) -> list[str]:
    """Options of `drift eval`, checked before any run starts."""
    from common.commands.eval import evaluate

    try:
        own = shlex.split(options or "")
    except ValueError as error:
        raise RequestError(f"--eval-options {options}: {str(error).lower()}") from None
    words = [*(["--backend", backend] if backend else []), *own]
    try:
        given = evaluate.make_context("drift eval", ["RUN", *words]).params["directories"]
    except click.UsageError as error:
        raise RequestError(f"--eval-options {options}: {error.format_message()}") from None
    if len(given) > 1:
        raise RequestError(f"--eval-options {options}: '{given[1]}' is no option of drift eval")
    return words


def _tasks(
    runs: Sequence["Planned"],
    states: dict[str, "Progress"],
    out: Path,
    *,
    backend: str | None,
    measured: Sequence[str] | None,
    passed: Sequence[str],
) -> list["Task"]:
    """A task for each run that has a step left.

    measured: options of `drift eval`; None: do not evaluate. passed: options of every step.
    """
    from common.sweep.board import EVALUATING
    from common.sweep.jobs import Step, Task

    tasks = []
    for run in runs:
        state, path, log = states[run.name].state, out / run.name, out / LOGS / f"{run.name}.log"
        steps = []
        if state != "complete":
            words = run.command(path, backend=backend, resume=state == "incomplete")
            words = (*words, *passed)
            steps.append(Step("resumed" if state == "incomplete" else "started", words, log))
        if measured is not None:
            steps.append(Step(EVALUATING, ("eval", str(path), *measured, *passed), log))
        if steps:
            tasks.append(Task(run.name, tuple(steps)))
    return tasks


@contextmanager
def _signals(board: "Board") -> Iterator[list[int]]:
    """A context that records Ctrl-C and SIGTERM; yields the list of those received."""
    from common.workflows import interrupts

    received: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        received.append(number)
        board.stopping = True
        if not board.live:
            os.write(2, f"drift: {board.STOPPING}\n".encode())

    with interrupts.handled((signal.SIGINT, signal.SIGTERM), ask):
        yield received


def _print_plan(
    runs: Sequence["Planned"], states: dict[str, "Progress"], tasks: Sequence["Task"]
) -> None:
    from common.console import say, table

    table(
        [
            {
                "name": run.name,
                "state": states[run.name].state,
                "updates": f"{states[run.name].done}/{run.config.run.updates}",
            }
            for run in runs
        ],
        right=("updates",),
    )
    for task in tasks:
        for step in task.steps:
            say(shlex.join(["drift", *step.words]))


def _print_results(
    runs: Sequence["Planned"],
    states: Mapping[str, "Progress"],
    outcomes: Mapping[str, "Outcome"],
    board: "Board",
    out: Path,
) -> None:
    from common.console import say, table
    from common.sweep.plan import latest_metrics

    rows = []
    for run in runs:
        before = "done" if states[run.name].state == "complete" else "waiting"
        done = latest_metrics(out / run.name).get("update", 0)
        updates = f"{done}/{run.config.run.updates}"
        rows.append({"name": run.name, "state": outcomes.get(run.name, before), "updates": updates})
    say("")
    table(rows, right=("updates",))
    for name, reason in board.failures.items():
        say(f"failed: {name}: {reason} (log: {out / LOGS / name}.log)")


def _words(given: Mapping[str, Any]) -> list[str]:
    """The command line of this sweep from its parameters."""
    words = ["drift", "sweep", *given["recipes"]]
    for text in given["over"]:
        words += ["--over", text]
    if given["seeds"]:
        words += ["--seeds", ",".join(map(str, given["seeds"]))]
    for text in given["overrides"]:
        words += ["--set", text]
    words += ["--updates", str(given["updates"])] if given["updates"] else []
    words += ["--out", str(given["out"])]
    words += ["--jobs", str(given["jobs"])] if given["jobs"] > 1 else []
    words += ["--launcher", given["launcher"]] if given["launcher"] != "local" else []
    words += [word for text in given["slurm"] for word in ("--slurm", text)]
    words += ["--backend", given["backend"]] if given["backend"] else []
    words += ["--eval"] if given["evaluate"] else []
    words += ["--trust"] if given["trust"] else []
    return [*words, "--eval-options", given["eval_options"]] if given["eval_options"] else words

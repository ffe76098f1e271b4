"""`drift run`: fine-tune a model, show the progress, stop and resume."""

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from common import launched
from common.commands import complete, several
from common.commands.path_type import FilePath
from common.commands.settings import SettingsCommand, updates_option, with_short_forms
from common.commands.trust import trust_option
from common.errors import RequestError


@click.command(cls=SettingsCommand, short_help="Fine-tune a model, or go on with a run.")
@click.argument("recipe", required=False, shell_complete=complete.recipes)
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    shell_complete=complete.backends,
    help="Where to run; auto: the best here.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    shell_complete=complete.settings,
    metavar="TABLE.KEY=VALUE",
    help="Change one key of the recipe; more than once for more. `drift config` lists the keys. "
    "reward.terms.NAME replaces the recipe's terms: name all that you want.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="Seed of all random draws: short for --set run.seed=N.",
)
@updates_option
@click.option(
    "--out",
    type=FilePath(),
    metavar="DIR",
    help="The run directory.  [default: runs/RECIPE-BACKEND-seedN]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--dry-run", is_flag=True, help="Check everything, show sizes and memory, and do nothing."
)
@click.option(
    "--time",
    "timed",
    is_flag=True,
    help="With --dry-run: compute two updates of a few prompts, and estimate the time of the run.",
)
@click.option(
    "--from",
    "resume_from",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --resume: go back to the checkpoint after update N; newer ones are set aside.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one line of JSON for each update, and messages on standard error.",
)
@several.processes_option
@trust_option
@click.pass_context
def run(
    ctx: click.Context,
    recipe: str | None,
    backend: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    updates: int | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    timed: bool,
    resume_from: int | None,
    quiet: bool,
    as_json: bool,
    processes: int | None,
    trust: bool,
) -> None:
    """Fine-tune a model as RECIPE says: a name that `drift recipes` lists, or a TOML file.

    Without RECIPE it is the embedded emoji model, which needs no download. The run ends with a
    report. Ctrl-C and SIGTERM finish the current update and save; a second one aborts at once.
    --resume goes on with the stored configuration, or with RECIPE and --set where they fit it.
    """
    short = {"--backend": backend or None, "--seed": seed, "--updates": updates}
    overrides = with_short_forms(overrides, short)
    if quiet and as_json:
        raise RequestError("--json prints nothing else on standard output; leave out --quiet")
    if dry_run and (quiet or as_json):
        raise RequestError("--dry-run only prints; leave out --quiet and --json")
    from common.console import pairs, say
    from common.workflows import interrupts
    from common.workflows.json_lines import JsonLines
    from common.workflows.train import fine_tune

    if dry_run:
        if launched.size() > 1:
            raise RequestError("--dry-run works in one process: write --processes N, no launcher")
        if resume:
            raise RequestError("--dry-run is about a new run; leave out --resume")
        if timed and (processes or 1) > 1:
            raise RequestError("--time is about one process; leave out --processes")
        from common.workflows.rehearse import rehearse

        rows = rehearse(
            recipe, overrides, trust=trust, out=out, timed=timed, processes=processes or 1
        )
        pairs(rows)
        return
    if timed:
        raise RequestError("--time is about a dry run: write --dry-run --time")
    several.run(ctx, processes)
    observers = (JsonLines(sys.stdout),) if as_json else ()
    if quiet or as_json:  # what a reward or a library prints is no line of JSON
        ctx.with_resource(redirect_stdout(sys.stderr))
    signals = interrupts.of_the_command()
    done = fine_tune(
        recipe,
        overrides,
        out=out,
        resume=resume,
        interrupts=signals,
        progress=not (quiet or as_json),
        observers=observers,
        trust=trust,
        resume_from=resume_from,
    )
    if done.finished and as_json:
        click.echo(f"finished after update {done.update}: {done.report}", err=True)
    if not done.finished:
        say(f"stopped after update {done.update} of {done.config.run.updates}; go on with")
        say(f"  drift run --resume --out {shlex.quote(str(done.path))}")
        ctx.exit(128 + signals.received[0])

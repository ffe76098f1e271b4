"""The `drift` command: the group of its subcommands, and the place that prints errors.

No large library is imported here, so that `drift --help` answers at once.
"""

import errno
import warnings
from typing import Any

import click

from common import launched
from common.commands.audit import audit
from common.commands.compare import compare
from common.commands.config import config
from common.commands.doctor import doctor
from common.commands.errors import INTERRUPTED, explain, warn
from common.commands.eval import evaluate
from common.commands.export import export
from common.commands.parity import parity
from common.commands.prompts import prompts
from common.commands.push import push
from common.commands.recipes import recipes
from common.commands.report import report
from common.commands.rewards import rewards
from common.commands.run import run
from common.commands.runs import runs
from common.commands.sample import sample
from common.commands.showcase import showcase
from common.commands.sweep import sweep
from common.commands.watch import watch
from common.errors import PeerError, RequestError

DEBUG = "drift.debug"

SHARED = ("run", "eval")
"""Commands that several processes of a launcher may be."""


class DriftGroup(click.Group):
    """A group that adds `--debug` to each command and prints errors as one line on stderr."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Register a command and give it the `--debug` switch."""
        cmd.params.append(_debug_switch())
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of a typical use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn an exception into one line and an exit code."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _print_warning
                return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            click.echo("\ndrift: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of the output has closed the pipe: click ends quietly
            if ctx.meta.get(DEBUG):
                import traceback

                click.echo(traceback.format_exc(), err=True, nl=False)
            code, message = explain(error)
            rank = _rank()
            if not (rank and isinstance(error, PeerError)):  # the other one has said it
                click.echo(f"drift: {f'process {rank}: ' * bool(rank)}{message}", err=True)
            ctx.exit(code)


def _rank() -> int:
    """The number of this process; 0 too where the launcher's is refused."""
    try:
        return launched.rank()
    except RequestError:
        return 0


def _print_warning(message: Warning | str, *_: Any) -> None:
    """Print a warning as one line, without its place in the code; process 0 speaks for all."""
    if not _rank():
        warn(str(message))


def _debug_switch() -> click.Option:
    def store(ctx: click.Context, _: click.Parameter, on: bool) -> None:
        ctx.meta[DEBUG] = on or ctx.meta.get(DEBUG, False)

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=store,
        help="Show the traceback of an error.",
    )


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from common import machine

        click.echo(f"drift {machine.facts()['drift']}")
        ctx.exit()


@click.group(
    cls=DriftGroup,
    params=[_debug_switch()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def drift(ctx: click.Context) -> None:
    """Fine-tune image generators with reinforcement learning and keep their diversity.

    `drift run` fine-tunes the embedded emoji model on this machine's best backend.
    """
    if ctx.invoked_subcommand not in SHARED and launched.size() > 1:
        raise RequestError(
            f"drift {ctx.invoked_subcommand} is work for one process, but the launcher has started "
            f"{launched.size()}; drift run and drift eval share theirs"
        )


for _command in (
    run,
    runs,
    report,
    watch,
    evaluate,
    compare,
    audit,
    sample,
    export,
    push,
    sweep,
    doctor,
    recipes,
    config,
    prompts,
    rewards,
    parity,
    showcase,
):
    drift.add_command(_command)


def main() -> None:
    """The entry point of the `drift` command."""
    drift(prog_name="drift")

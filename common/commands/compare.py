"""`drift compare`: methods against a baseline, with tables, plots and a page."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.choices import ALIGNMENTS, DIVERSITIES, READINGS, SPLITS, STANDING, Standing
from common.commands.path_type import FilePath
from common.commands.trust import trust_option
from common.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.comparison.gains import Reading
    from common.evaluation.records import Split
    from common.report.gain_tables import Table


class Shares(click.ParamType):
    """Shares with commas between them, each above 0 and at most 1."""

    name = "shares"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers of a text such as 0.25,0.5; a tuple is returned unchanged."""
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(dict.fromkeys(float(part) for part in str(value).split(",")))
        except ValueError:
            shares = ()
        if not shares or not all(0 < share <= 1 for share in shares):
            self.fail(f"'{value}': write shares above 0 and up to 1, as 0.25,0.5", param, ctx)
        return shares


class Baselines(click.ParamType):
    """Standing baselines with commas between them."""

    name = "baselines"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Standing, ...]:
        """The names of a text such as scale,aig; a tuple is returned unchanged."""
        if isinstance(value, tuple):
            return value
        named = {part.strip() for part in str(value).split(",")}
        if named - {*STANDING}:
            self.fail(f"'{value}': write some of {','.join(STANDING)}", param, ctx)
        return tuple(name for name in STANDING if name in named)


@click.command(short_help="Compare measured runs: fronts, and gains over a baseline.")
@click.argument("paths", metavar="RUN...", nargs=-1, required=True, type=FilePath())
@click.option("--baseline", metavar="NAME", help="A method.  [default: the one of plain GRPO]")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Which prompts count.",
)
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="N",
    help="Leave out measurements after more updates.  [default: take all]",
)
@click.option(
    "--axis",
    metavar="NAME",
    default=ALIGNMENTS[0],
    show_default=True,
    help=f"Alignment: {', '.join(ALIGNMENTS)} or a held-out scorer.",
)
@click.option(
    "--diversity",
    metavar="NAME",
    default=DIVERSITIES[0],
    show_default=True,
    help=f"{', '.join(DIVERSITIES)}; or features, as clip for the mean distance and vendi/clip.",
)
@click.option(
    "--level",
    "gain_shares",
    type=Shares(),
    default="0.25,0.5,0.75,0.9",
    show_default=True,
    help="Where diversity is compared: shares of the baseline's gain in alignment.",
)
@click.option(
    "--diversity-level",
    "diversity_shares",
    type=Shares(),
    default="0.8,0.6",
    show_default=True,
    help="Where alignment is compared: shares of the base model's diversity.",
)
@click.option(
    "--curve",
    "reading",
    type=click.Choice(READINGS),
    default="front",
    show_default=True,
    help="front: the best points; path: checkpoints in order, up to the first that gets there.",
)
@click.option(
    "--with",
    "standing",
    type=Baselines(),
    default=(),
    metavar=",".join(STANDING),
    help="Baselines at inference that are measured first for the last checkpoint of every RUN, as "
    "far as they were not: a smaller adapter, AIG, CADS.  [default: measure nothing]",
)
@click.option(
    "--cache",
    type=FilePath(file_okay=False),
    metavar="DIR",
    help="Folder of images that runs share, for --with.  [default: evaluation-cache beside RUN]",
)
@click.option(
    "--keep/--no-keep",
    default=True,
    show_default=True,
    help="Keep the images of checkpoints that --with makes.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Draws of the bootstrap.",
)
@click.option(
    "--out",
    type=FilePath(file_okay=False),
    default=Path("comparison"),
    show_default=True,
    metavar="DIR",
    help="Where compare.json, front.png, front.svg and compare.html go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what goes to compare.json.")
@trust_option
def compare(
    paths: tuple[Path, ...],
    baseline: str | None,
    split: "Split",
    until: int | None,
    axis: str,
    diversity: str,
    gain_shares: tuple[float, ...],
    diversity_shares: tuple[float, ...],
    reading: "Reading",
    standing: tuple[Standing, ...],
    cache: Path | None,
    keep: bool,
    replicas: int,
    out: Path,
    as_json: bool,
    trust: bool,
) -> None:
    """Compare runs that `drift eval` has measured; RUN may be a folder that holds runs.

    Runs of one recipe are a method: its configurations are strengths, its seeds repetitions. Each
    method is compared with the baseline at equal alignment and at equal diversity; intervals are
    at 95 %, over seeds and prompts. A level that a method does not reach is never extrapolated.
    Nothing is measured, but for the baselines that --with names. Of images that were measured
    without a run there is no base model: every measure is compared, and there are no curves.
    """
    from common.comparison import summary as summaries
    from common.console import console, say
    from common.workflows import options
    from common.workflows.compare import compare_runs, measure_standing

    chosen = options.checked(
        options.CompareOptions,
        split=split,
        until=until,
        axis=axis,
        diversity=diversity,
        gain_shares=gain_shares,
        diversity_shares=diversity_shares,
        curve=reading,
        standing=standing,
        replicas=replicas,
    )
    if not (standing or (keep and cache is None)):
        option = "--no-keep" if cache is None else "--cache"
        raise RequestError(f"{option} is for what --with measures; without it nothing is measured")
    measure_standing(paths, baseline, chosen, cache, keep=keep, quiet=as_json, trust=trust)
    with console.status("comparing"):
        done = compare_runs(paths, baseline, chosen, out)
    if as_json:
        click.echo(summaries.to_json(done.summary), nl=False)
        return
    show(done.tables)
    for note in done.notes:
        say(f"{note}\n")
    for path in reversed(done.files):
        say(str(path))


def show(tables: "Sequence[Table]") -> None:
    """Print the tables of a comparison."""
    from common.console import say, table

    for each in tables:
        say(f"{each.title}: {each.meaning}\n")
        rows = [
            {"": row.method}
            | {column: cell.line for column, cell in zip(each.columns, row.cells, strict=True)}
            for row in each.rows
        ]
        table(rows, right=each.columns)
        say("")

"""Comparing measured runs: gather them, summarise them, write the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from common.choices import Reading, Split, Standing
from common.comparison import methods, noise, side_by_side, standing as standing_baselines
from common.comparison.methods import Study
from common.comparison.side_by_side import SideBySide
from common.comparison.summarise import summarise
from common.comparison.summary import Summary
from common.errors import RequestError, listed, preparing
from common.evaluation import measured_runs, neutral_runs
from common.report import comparison as pages, gain_tables, notes, side_by_side as image_pages
from common.report.gain_tables import Table
from common.workflows import evaluate, options
from common.workflows.options import CompareOptions
from common.workflows.run import RunLike, run_paths


@dataclass(frozen=True)
class Comparison:
    """Methods against a baseline; a notebook shows the plot of their fronts.

    summary: all numbers. files: compare.json, front.svg, front.png and compare.html; of images
    without a base model there is no plot. tables: of the page, as text. notes: what to know before
    the numbers are believed.
    """

    summary: Summary | SideBySide
    files: tuple[Path, ...]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = listed(self.summary.names)
        return f"<Comparison of {names} with {self.summary.baseline}: {self.page}>"

    @property
    def page(self) -> Path:
        """The page, an HTML file."""
        return self.files[-1]

    @property
    def gains(self) -> list[dict[str, Any]]:
        """A row for each statistic of each method against the baseline."""
        return self.summary.gain_rows()

    @property
    def points(self) -> list[dict[str, Any]]:
        """A row for each measured point of each method, without the base model."""
        return self.summary.point_rows()

    def _repr_png_(self) -> bytes | None:
        """The plot, which notebooks ask for; None where there is none."""
        plots = [path for path in self.files if path.suffix == ".png"]
        return plots[0].read_bytes() if plots else None


def compare(
    runs: RunLike | Iterable[RunLike],
    *,
    baseline: str | None = None,
    split: Split = "test",
    until: int | None = None,
    axis: str = "reward",
    diversity: str = "diversity",
    gain_shares: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    diversity_shares: Sequence[float] = (0.8, 0.6),
    curve: Reading = "front",
    standing: Sequence[Standing] = (),
    replicas: int = 2000,
    out: str | PathLike[str] = "comparison",
    cache: str | PathLike[str] | None = None,
    keep: bool = True,
    progress: bool = True,
    trust: bool = False,
) -> Comparison:
    """Compare runs that were evaluated, and write the page; the Python form of `drift compare`.

    Runs of one recipe are a method: its configurations are strengths, its seeds repetitions.
    Images that `drift.evaluate_images` measured are one too. Where they were measured without a
    run, every measure is compared and there are no fronts.

    Args:
        runs: runs, paths of their folders, or of folders that hold runs.
        baseline: a method; None: the one of plain GRPO, or the first where no runs are compared.
        split: which prompts count.
        until: leave out what was measured after more updates; None: take all.
        axis: the measure of alignment: "reward" (the run's own), a held-out scorer, or of the emoji
            model "alignment_heldout" or "alignment_train".
        diversity: "diversity", "vendi", "pixel_distance" or "modes", the last of
            the emoji model only; or features, as "clip" for the mean distance, "vendi/clip".
        gain_shares: where diversity is compared: shares of the baseline's gain, in (0, 1].
        diversity_shares: where alignment is compared: shares of the base model's diversity.
        curve: "front" (the best points) or "path" (checkpoints in order).
        standing: baselines at inference, "scale", "aig" and "cads", that are measured first for the
            last compared checkpoint of every run; see `common.comparison.standing`.
        replicas: draws of the bootstrap, at least 100.
        out: the folder that the page, the plot and the numbers are written to.
        cache: of images, for `standing`; None: evaluation-cache beside each run.
        keep: keep the images of checkpoints that are made for `standing`.
        progress: show a line for each record of `standing`; False prints nothing.
        trust: let the runs' configurations import the code that they name, for `standing`.

    Raises:
        drift.RequestError: runs that cannot be compared, or an option that is not valid.
    """
    chosen = options.checked(
        CompareOptions,
        split=split,
        until=until,
        axis=axis,
        diversity=diversity,
        gain_shares=gain_shares,
        diversity_shares=diversity_shares,
        curve=curve,
        standing=standing,
        replicas=replicas,
    )
    where = None if cache is None else Path(cache)
    measure_standing(
        run_paths(runs), baseline, chosen, where, keep=keep, quiet=not progress, trust=trust
    )
    return compare_runs(run_paths(runs), baseline, chosen, Path(out))


def measure_standing(
    paths: Iterable[Path],
    baseline: str | None,
    chosen: CompareOptions,
    cache: Path | None,
    *,
    keep: bool,
    quiet: bool,
    trust: bool,
) -> None:
    """Measure the standing baselines that `chosen` names where they are not measured yet.

    What the comparison would refuse afterwards, such as an axis, is refused before.
    """
    if not chosen.standing:
        return
    with preparing():
        measured = measured_runs.read(paths, chosen.split, chosen.until)
        plain = [
            replace(run, records={v: r for v, r in run.records.items() if not v.changes})
            for run in measured.runs
        ]
        if not plain:
            raise RequestError("--with measures checkpoints of runs, and there are only images")
        alone = neutral_runs.read(measured, chosen.until)
        study = methods.sort(measured._replace(runs=plain), alone)
        axis, spread = study.alignment(chosen.axis), study.diversity(chosen.diversity)
        first = methods.plain(study).name if baseline is None else baseline
        for method in study.methods:
            if study.neutral and method.name == first:  # it may be one that is measured below
                noise.check(study, method)
                noise.axes(study, axis, spread)
    wanted = [standing_baselines.variants(run, chosen.standing) for run in plain]
    planned = [
        evaluate.repeated(run.directory, run.records, variants)
        for run, variants in zip(plain, wanted, strict=True)
    ]
    evaluate.measure_all(planned, cache, keep=keep, quiet=quiet, trust=trust)


def compare_runs(
    paths: Iterable[Path], baseline: str | None, chosen: CompareOptions, out: Path
) -> Comparison:
    """What `compare` and the command share."""
    paths = list(paths)
    with preparing():
        study = methods.gather(paths, chosen.split, chosen.until)
        if not study.protocol.has_base:
            return _compare_images(study, baseline, chosen, out)
        summary = summarise(
            study,
            baseline or methods.plain(study).name,
            axis=chosen.axis,
            diversity=chosen.diversity,
            gain_shares=chosen.gain_shares,
            diversity_shares=chosen.diversity_shares,
            reading=chosen.curve,
            replicas=chosen.replicas,
        )
    remarks = notes.notes(summary, study, paths)
    if len(summary.seeds) <= 1:
        remarks.append(notes.without_intervals(summary))
    files = tuple(pages.build(summary, study, out))
    return Comparison(summary, files, tuple(gain_tables.tables(summary)), tuple(remarks))


_OF_CURVES = {
    "until": "--until",
    "axis": "--axis",
    "diversity": "--diversity",
    "gain_shares": "--level",
    "diversity_shares": "--diversity-level",
    "curve": "--curve",
}
"""Options that choose among curves from a base model, by their names in Python."""


def _compare_images(
    study: Study, baseline: str | None, chosen: CompareOptions, out: Path
) -> Comparison:
    usual = CompareOptions()
    for name, option in _OF_CURVES.items():
        if getattr(chosen, name) != getattr(usual, name):
            raise RequestError(
                f"{option} has no effect on images without a base model, which have no curves: "
                "every measure is compared"
            )
    first = baseline or methods.plain(study).name
    summary = side_by_side.summarise(study, first, replicas=chosen.replicas)
    files = tuple(image_pages.build(summary, study, out))
    return Comparison(summary, files, tuple(image_pages.tables(summary)), (image_pages.NOTE,))

"""Measuring the checkpoints of runs: which weights, under which protocols, and its progress."""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

from common import consent
from common.backends import Backend
from common.choices import Split
from common.config import Config
from common.console import say
from common.errors import RequestError, existing, preparing
from common.evaluation import measure, suggested
from common.evaluation.cache import Written
from common.evaluation.families import measures_for
from common.evaluation.foreign import RealImages
from common.evaluation.records import Protocol, Record, Variant, load
from common.progress import Part, clock, counted
from common.runs import checkpoint
from common.runs.directory import RunDirectory
from common.workflows import alike, options
from common.workflows.options import EvaluateOptions, MeasuringOptions
from common.workflows.part_progress import PartProgress
from common.workflows.run import RunLike, mean_row, records_under, run_paths
from common.workflows.sample import choose_backend

ALIGNMENT_WORDS = {"alignment_heldout": "held-out", "reward": "reward"}
"""Measures of alignment in one word."""


@dataclass(frozen=True)
class Measurement:
    """What to measure of one run. asked: what the user names; the code of others needs consent."""

    run: RunDirectory
    protocols: list[Protocol]
    variants: list[Variant]
    backend: Backend
    real: RealImages | None = None
    asked: tuple[str, ...] = ()


def evaluate(
    runs: RunLike | Iterable[RunLike],
    *,
    splits: Sequence[Split] = ("train", "test"),
    prompts: int = 24,
    images: int = 16,
    steps: int = 20,
    seed: int = 0,
    checkpoints: Sequence[int | str] = (),
    scales: Sequence[float] = (1.0,),
    prompt_noise: Sequence[float] = (0.0,),
    aig: Sequence[float] = (0.0,),
    scorers: Sequence[str] = (),
    features: Sequence[str] = (),
    real: str | PathLike[str] | None = None,
    backend: str | None = None,
    cache: str | PathLike[str] | None = None,
    keep: bool = True,
    progress: bool = True,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measure alignment and diversity of checkpoints; the Python form of `drift eval`.

    What was measured goes to RUN/evaluation, and the same call again measures only what is
    missing.

    Args:
        runs: one run or several, or paths of their folders.
        splits: which prompts: "train" (the run's own), "validation", "test" (held out).
        prompts: of each split, at most; 0 = all.
        images: of each prompt.
        steps: of the ODE.
        seed: of the initial noise, the same for every run.
        checkpoints: updates, "base" or "latest"; () = all. The base model is always measured.
        scales: factors on the trained weights, in [0, 2].
        prompt_noise: strengths of CADS at inference, in [0, 10].
        aig: exponents of annealed importance guidance, in [0, 100]; 0 is none.
        scorers: held-out rewards that score the images too; (): the run's `evaluate.scorers`.
        features: image features that diversity is measured in; (): `evaluate.features`.
        real: a folder of real images to measure the Frechet distance to; None: `evaluate.real`.
        backend: "mlx", "cuda", "cpu" or "auto"; None: the run's if it works here, else the best.
        cache: where images are kept, which runs share; None: evaluation-cache beside the run.
        keep: keep the images of checkpoints, so that a further scorer or feature samples nothing.
        progress: show a line for each record; False prints nothing.
        trust: let the runs' configurations import the code that they name.

    Returns:
        A row of means for each run, split and checkpoint: "run", "update", "split", the measures.

    Raises:
        drift.RequestError: a run, checkpoint, split, number or backend that is not there or not
            valid; a damaged record.
        drift.Error: the work failed; finished records stay.
    """
    chosen = options.checked(
        EvaluateOptions,
        splits=splits,
        prompts=prompts,
        images=images,
        steps=steps,
        seed=seed,
        scales=scales,
        prompt_noise=prompt_noise,
        aig=aig,
        scorers=scorers,
        features=features,
        real=None if real is None else fspath(real),
    )
    wanted = [str(which) for which in checkpoints]
    planned = plan(run_paths(runs), chosen, wanted, backend)
    where = None if cache is None else Path(cache)
    measure_all(planned, where, keep=keep, quiet=not progress, trust=trust)
    return [{"run": str(each.run.path), **row} for each in planned for row in mean_rows(each)]


def plan(
    paths: Iterable[Path], chosen: EvaluateOptions, wanted: Sequence[str], backend: str | None
) -> list[Measurement]:
    """What to measure of each run; wanted: checkpoints as "N", "base", "latest". RequestError."""
    planned, opened = [], {}
    with preparing():
        for path in paths:
            run, variants = _variants(path, wanted, chosen)
            real = _real_images(chosen.real or run.config.evaluate.real, opened)
            how = protocols(run, chosen, chosen.images, real)
            engine = choose_backend(backend, run)
            engine.connect()
            alike.check_settings(engine, run.config)
            alike.check_files(engine, run.config)
            planned.append(Measurement(run, how, variants, engine, real, chosen.asked))
    return planned


def protocols(
    run: RunDirectory, chosen: MeasuringOptions, images: int, real: RealImages | None = None
) -> list[Protocol]:
    """The protocol of each split, in the order of the options; errors of `measure.protocol`."""
    return [
        measure.protocol(
            run,
            split,
            prompts=chosen.prompts,
            images=images,
            steps=chosen.steps,
            seed=chosen.seed,
            scorers=chosen.scorers,
            features=chosen.features,
            real=real,
        )
        for split in dict.fromkeys(chosen.splits)
    ]


def repeated(
    run: RunDirectory, measured: Mapping[Variant, Record], variants: Iterable[Variant]
) -> Measurement:
    """Other variants of a run under the protocol that these are measured under. RequestError."""
    how = next(iter(measured.values())).protocol
    with preparing():
        folder = suggested.real_folder(run, how, measured.values()) if how.real else None
        real = _real_images(folder, {})
        now = measure.protocol(
            run,
            how.split,
            prompts=len(how.prompts),
            images=how.images,
            steps=how.steps,
            seed=how.seed,
            scorers=how.scorers,
            features=suggested.feature_names(run, how),
            real=real,
        )
        if now != how:
            raise RequestError(
                f"{run.path} would not be measured as it was: its base model, prompts, settings or "
                f"real images changed; run `{suggested.eval_run(run, measured.values(), measured)}`"
            )
        chosen = sorted({Variant(0), *variants})
        _updates(run, [str(variant.update) for variant in chosen if variant.update])
        return Measurement(run, [how], chosen, choose_backend(None, run), real)


def _real_images(name: str | None, opened: dict[str, RealImages]) -> RealImages | None:
    """The real images of a folder, if there is one; opened: those that other runs have too."""
    if name is not None and name not in opened:
        opened[name] = RealImages.open(name)
    return None if name is None else opened[name]


def measure_all(
    planned: Sequence[Measurement], cache: Path | None, *, keep: bool, quiet: bool, trust: bool
) -> list[int]:
    """Measure what is missing; the number of new records of each run, [] but in process 0.

    At the end a line says how much disk the images take that were kept.
    """
    try:
        return _measured(planned, cache, keep=keep, quiet=quiet, trust=trust)
    finally:
        for each in planned:
            each.backend.world.close()


def _measured(
    planned: Sequence[Measurement], cache: Path | None, *, keep: bool, quiet: bool, trust: bool
) -> list[int]:
    counts, kept = [], dict[Path, Written]()
    for each in planned:
        allowed = consent.required_for(each.run.path, each.asked, trust=trust)
        if each.backend.world.rank:
            with allowed:
                measure.help_process_0(each.run, each.backend)
            continue
        folder = cache or each.run.path.absolute().parent / measure.CACHE
        with _Progress(each, quiet=quiet) as progress, allowed:
            written = measure.evaluate(
                each.run,
                each.backend,
                each.protocols,
                each.variants,
                cache=folder,
                on_record=progress.measured,
                on_images=progress.sampled,
                real=each.real,
                keep=keep,
            )
        counts.append(progress.new)
        kept[folder] = kept.get(folder, Written()) + written
    for folder, written in kept.items():
        if written.images and not quiet:
            say(_kept(written, folder, keep=keep))
    return counts


def _kept(written: Written, folder: Path, *, keep: bool) -> str:
    """What was added to a cache, in words."""
    what = f"kept {written.images:,} images, {written.nbytes / 1e6:,.1f} MB, in {folder}"
    return f"{what}; --no-keep keeps the base model's alone" if keep else what


def mean_rows(measurement: Measurement) -> list[dict[str, Any]]:
    """A row of means for each record that the run has under the protocols."""
    run = measurement.run
    return [mean_row(record) for how in measurement.protocols for record in records_under(run, how)]


def features_note(config: Config, how: Protocol) -> str:
    """What diversity and fidelity are measured in, where there is a choice; "" where not.

    Features that shape the reward are marked, and a sentence says where there are no others.
    """
    names, measures = how.feature_names, measures_for(config.model.family)
    shaping = measures.shaped(config, tuple(names.values()))
    warning = ", which shape the reward that was trained on"
    labels = [how.features or "of the held-out scorer", *how.more_features]
    marked = [
        f"{label}{warning if name in shaping else ''}"
        for label, name in zip(labels, names.values(), strict=True)
    ]
    if not how.features and not how.more_features and not how.real:
        return f"diversity: in the held-out features{warning}" if shaping else ""
    frechet = "; Frechet: distance to the base model's images" if how.features else ""
    frechet += f"; to real: that to {how.real.split()[0]} real images" if how.real else ""
    alone = "; no other features measure it" if len(shaping) == len(names) else ""
    return f"diversity, recall, coverage: in the features {', '.join(marked)}{alone}{frechet}"


def _variants(
    directory: Path, wanted: Sequence[str], chosen: EvaluateOptions
) -> tuple[RunDirectory, list[Variant]]:
    """The run and the variants to measure, in order; the unchanged base model comes first."""
    run = RunDirectory.open(directory)
    load(run)  # damage shows before the work, not after it
    updates = _updates(run, wanted)
    if not any(updates) and ({*chosen.scales} != {1.0} or any(chosen.aig)):
        option = "--aig" if any(chosen.aig) else "--scale"
        raise RequestError(f"{option} has no effect on the base model: name another --checkpoint")
    knobs = itertools.product(updates, chosen.scales, chosen.prompt_noise, chosen.aig)
    variants = {
        Variant(update, scale, strength, aig) if update else Variant(0, prompt_noise=strength)
        for update, scale, strength, aig in knobs
    }
    return run, sorted({Variant(0), *variants})


def _updates(run: RunDirectory, wanted: Sequence[str]) -> list[int]:
    """The updates that `wanted` names, 0 for the base model; by default all of them."""
    there = checkpoint.updates(run.checkpoints)
    if not there and set(wanted) != {"base"}:
        raise RequestError(
            f"{run.path} has no checkpoint yet; --checkpoint base measures the model before tuning"
        )
    known = existing(("base", *there))
    updates = []
    for which in wanted:
        if which not in ("base", "latest") and not which.isdecimal():
            raise RequestError(
                f"--checkpoint {which}: write the number of an update, base or latest"
            )
        update = {"base": 0, "latest": max(there, default=0)}.get(which)
        update = int(which) if update is None else update
        if update and update not in there:
            raise RequestError(f"no checkpoint after update {update} in {run.path}{known}")
        updates.append(update)
    return updates or [0, *there]


class _Progress(PartProgress):
    """Shows how far the records and their images are; each new record has a line."""

    def __init__(self, measurement: Measurement, *, quiet: bool) -> None:
        self.new, self._records = 0, 0
        self._total = len(measurement.protocols) * len(measurement.variants)
        self._noun = counted("images", measurement.backend.world.size)
        name = measurement.run.path.absolute().name
        super().__init__("", whole=f"measuring {name}", total=self._total, quiet=quiet)

    def __enter__(self) -> Self:
        self._begin = self._start = time.perf_counter()
        return super().__enter__()

    def sampled(self, name: str, done: int, total: int) -> None:
        """Take in that so many images of one record, or of what it is compared with, are done."""
        self._show(done / total)
        before = f"record {self._records + 1} of {self._total}  "
        self._advance(name, done, total, self._noun, before)

    def measured(self, record: Record, is_new: bool) -> None:
        """Take in a record that was made just now, or was there."""
        now = time.perf_counter()
        self._part = Part("")
        self._records += 1
        self.new += is_new
        self._show(0.0)
        if is_new and not self._quiet:
            say(
                f"measured {record.variant.name} on {record.protocol.split} prompts: "
                f"{ALIGNMENT_WORDS[record.alignment]} {record.mean(record.alignment):.2f}  "
                f"diversity {record.mean('diversity'):.3f}  ({now - self._start:.1f} s)"
            )
        self._start = now

    def _show(self, share: float) -> None:
        """Move the bar of all records; share: of the one that is made now."""
        words, worked = f"{self._records}/{self._total} records", self.new + share
        if worked:
            rest = self._total - self._records - share
            spent = time.perf_counter() - self._begin
            words += f"  {clock(spent / worked * rest)} left"
        self._bars.update(self._whole, completed=self._records + share, words=words)

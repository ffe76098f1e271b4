"""Measuring images that another program made: like those of a run, or alone; a method each."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from common import backends, consent, reading
from common.backends import Backend
from common.choices import SPLITS, Split
from common.config import Table, key
from common.config.types import Name
from common.console import say
from common.errors import RequestError, preparing
from common.evaluation import collection, images_alone, measure, measured_runs, records, suggested
from common.evaluation.cache import Cache
from common.evaluation.collection import Collection
from common.evaluation.families import measures_for
from common.evaluation.foreign import RealImages
from common.evaluation.image_methods import ImageMethod, Note
from common.evaluation.measured_runs import BASE
from common.evaluation.records import FILE, IMAGES, Protocol, Record, RecordError
from common.runs import files
from common.runs.directory import RunDirectory
from common.workflows import options
from common.workflows.run import RunLike, mean_row
from common.workflows.sample import choose_backend


def _named(name: str) -> str:
    if not name.strip():
        raise ValueError("a name is needed")
    return name


class ImagesOptions(Table):
    """Options of `drift.evaluate_images` and `drift eval --folder`, checked before all else."""

    name: Annotated[Name, AfterValidator(_named)] = key("images", "of the method")
    splits: tuple[Split, ...] = key((), "which prompts; () = those that there are", strict=False)
    scorers: tuple[str, ...] = key((), "without a run: rewards that score the images", strict=False)
    features: tuple[str, ...] = key((), "without a run: image features", strict=False)
    real: str | None = key(None, "a folder of real images; None = the run's evaluate.real")


@dataclass(frozen=True)
class Request:
    """Images to measure, under these protocols, as the method `method`.

    run: which they are measured like; None measures them alone.
    """

    run: RunDirectory | None
    images: Collection
    method: ImageMethod
    protocols: list[Protocol]
    backend: Backend
    real: RealImages | None
    remarks: list[str]


def evaluate_images(
    folder: str | PathLike[str],
    name: str,
    *,
    like: RunLike | None = None,
    splits: Sequence[Split] = (),
    scorers: Sequence[str] = (),
    features: Sequence[str] = (),
    real: str | PathLike[str] | None = None,
    backend: str | None = None,
    cache: str | PathLike[str] | None = None,
    progress: bool = True,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measure images that another program made; the Python form of `drift eval --folder`.

    They become a method that `drift.compare` takes: the folder `name` beside the run, or beside
    the images where there is no run. The same call again measures only what is missing.

    Args:
        folder: DIR of DIR/PROMPT/*.png, or a `.jsonl` of lines {"path": ..., "prompt": ...}.
        name: of the method.
        like: a measured run, which says prompts, number of images, measures and base model; None:
            the images alone, without a reward and what is relative to a base model.
        splits: which of the run's prompts; (): those that there are images of.
        scorers: without a run: rewards that score the images.
        features: without a run: image features that diversity is measured in; (): the default
            of `evaluate.features`.
        real: a folder of real images to measure the Frechet distance to; None: that of the run.
        backend: "mlx", "cuda", "cpu" or "auto"; None: the run's if it works here, else the best.
        cache: where the images of the base model are kept; None: evaluation-cache beside the run.
        progress: show a line for each record; False prints nothing.
        trust: let the run's configuration import the code that it names.

    Returns:
        A row of means for each split and for base model and images: "run" (the folder of the
        method), "update" (0 for the base model, -1 for the images), "split", the measures.

    Raises:
        drift.RequestError: images, a run or an option that are not there or not valid.
        drift.Error: the work failed; finished records stay.
    """
    chosen = options.checked(
        ImagesOptions,
        name=name,
        splits=splits,
        scorers=scorers,
        features=features,
        real=None if real is None else fspath(real),
    )
    run, where = (None if path is None else Path(path) for path in (like, cache))
    request = plan(run, Path(folder), chosen, backend, where)
    measure_images(request, where, quiet=not progress, trust=trust)
    method = {"run": str(request.method.path)}
    return [method | mean_row(each) for how in request.protocols for each in rows(request, how)]


def plan(
    path: Path | None,
    place: Path,
    chosen: ImagesOptions,
    backend: str | None,
    cache: Path | None = None,
) -> Request:
    """What to measure, and the folder of the method. Raises RequestError."""
    with preparing():
        if path is None:
            return _plan_alone(place, chosen, backend, cache)
        for option in ("scorers", "features"):
            if getattr(chosen, option):
                raise RequestError(
                    f"--{option[:-1]} has no effect on images like those of a run: {path}'s "
                    "measurements say it"
                )
        run = RunDirectory.open(path)
        base = [
            record
            for record in records.load(run)
            if record.variant == BASE and (record.protocol.split in (chosen.splits or SPLITS))
        ]
        if not base:
            command = ["drift", "eval", str(path)]
            command += [word for split in chosen.splits for word in ("--split", split)]
            raise RequestError(
                f"{path} was not measured{_on(chosen.splits)}: run `{shlex.join(command)}` first, "
                "since its prompts, number of images and measures count"
            )
        known = {text for record in base for text in record.protocol.prompts}
        images = collection.read(place, known)
        protocols, remarks = collection.choose(images, base, run)
        if measures_for(run.config.model.family).model(run.config) != protocols[0].model:
            raise RequestError(f"{path} was measured with another base model than it has now")
        real = _real(run, protocols, chosen.real)
        engine = choose_backend(backend, run)
        note = Note(
            name=chosen.name,
            folder=str(place.absolute()),
            run=path.resolve().name,
            reward=measured_runs.rewards(run),
            prompts=measured_runs.training_prompts(run),
        )
        method = ImageMethod.beside(path, note)
    return Request(run, images, method, protocols, engine, real, remarks)


def _plan_alone(
    place: Path, chosen: ImagesOptions, backend: str | None, cache: Path | None
) -> Request:
    for option, given in (("--split", chosen.splits), ("--cache", cache)):
        if given:
            raise RequestError(f"{option} has no effect on images alone: name a RUN too")
    images = collection.read(place, None)
    real = None if chosen.real is None else RealImages.open(chosen.real)
    how = images_alone.protocol(images, chosen.scorers, chosen.features, real)
    engine = backends.load(backends.best() if backend in (None, "auto") else backend)
    method = ImageMethod.beside(place, Note(name=chosen.name, folder=str(place.absolute())))
    return Request(None, images, method, [how], engine, real, images.remarks)


def measure_images(request: Request, cache: Path | None, *, quiet: bool, trust: bool) -> int:
    """Measure what is missing; the number of new records of the images.

    Raises RecordError where the method has records of other images, ImagesError for one that is
    damaged or of another size than the base model's, or without a run than the first.
    """
    missing = _missing(request)
    if not missing:
        return 0
    if request.run is None:
        _measure_alone(request, missing)
    else:
        _measure_like(request.run, request, missing, cache, trust=trust)
    if not quiet:
        for how in missing:
            which = how.split if how.has_base else len(how.prompts)
            say(f"measured {request.method.note.name} on {which} prompts")
    return len(missing)


def rows(request: Request, how: Protocol) -> list[Record]:
    """The records of the method under a protocol: of the base model, if any, and of the images."""
    measured = {each.variant: each for each in records.load(request.method) if each.protocol == how}
    return [measured[BASE], measured[IMAGES]] if how.has_base else [measured[IMAGES]]


def _missing(request: Request) -> list[Protocol]:
    """The protocols that the method has no records of; RecordError for those of other images."""
    method = request.method
    known = {each.protocol: each for each in records.load(method) if each.variant == IMAGES}
    for how, record in known.items():
        if how in request.protocols and record.weights != request.images.digest(how.prompts):
            raise RecordError(
                f"{method.path} has records of other images: remove that folder to measure these, "
                "or choose another --name"
            )
    return [how for how in request.protocols if how not in known]


def _measure_alone(request: Request, missing: Sequence[Protocol]) -> None:
    images, method = request.images, request.method
    for how in missing:
        measurer = images_alone.ImagesMeasurer(images, how, request.backend, request.real)
        method.save()
        with measure.locked(method.path / FILE.parent):
            records.append(method, measurer.record(method.path))


def _measure_like(
    run: RunDirectory,
    request: Request,
    missing: Sequence[Protocol],
    cache: Path | None,
    *,
    trust: bool,
) -> None:
    method = request.method
    known = {each.protocol for each in records.load(method) if each.variant == BASE}
    with consent.required_for(run.path, (), trust=trust):
        store = Cache(cache or run.path.absolute().parent / measure.CACHE)
        measurer = measure.Measurer(run, request.backend, store, real=request.real)
        for how in missing:
            images = request.images.images(how.prompts, measurer.size(how))
            digest = request.images.digest(how.prompts)
            method.save()
            with measure.locked(method.path / FILE.parent):
                record = measurer.measure_images(how, images, digest, method.path)
                if how not in known:
                    _copy_base(run, method, how)
                records.append(method, record)


def _on(splits: Sequence[Split]) -> str:
    return f" on {' and '.join(splits)} prompts" if splits else ""


def _real(run: RunDirectory, protocols: Sequence[Protocol], name: str | None) -> RealImages | None:
    """The real images that the protocols compare with; RequestError where they are others."""
    wanted = {how.real for how in protocols if how.real}
    if not wanted:
        if name is not None:
            raise RequestError(f"--real: {run.path} was measured without real images")
        return None
    compared = next(how for how in protocols if how.real)
    place = name or suggested.real_folder(run, compared, records.load(run))
    if place is None:
        raise RequestError(f"{run.path} was compared with real images: name their folder, --real")
    real = RealImages.open(place)
    if wanted != {real.digest}:
        raise RequestError(f"{run.path} was compared with other real images than {place} has")
    return real


def _copy_base(run: RunDirectory, method: ImageMethod, how: Protocol) -> None:
    """Copy the record of the run's base model, with its picture if that is there."""
    record = next(
        each for each in records.load(run) if (each.variant, each.protocol) == (BASE, how)
    )
    content = None
    if record.grid is not None:
        with suppress(OSError, ValueError):  # the page says that the picture is missing
            content = reading.content(reading.inside(run.path / FILE.parent, record.grid))
    if content is not None and record.grid is not None:
        target = reading.inside(method.path / FILE.parent, record.grid)
        with files.os_errors_as(f"write {target}"):
            files.write_whole(target, content)
    records.append(method, record)

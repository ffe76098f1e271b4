"""Measuring images that another program made, like those of a run: a method of its own."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from common import consent, reading
from common.backends import Backend
from common.choices import SPLITS, Split
from common.config import Table, key
from common.config.types import Name
from common.console import say
from common.errors import RequestError, preparing
from common.evaluation import collection, measure, measured_runs, records
from common.evaluation.cache import Cache
from common.evaluation.collection import Collection
from common.evaluation.families import measures_for
from common.evaluation.foreign import RealImages
from common.evaluation.image_methods import ImageMethod, Note
from common.evaluation.measured_runs import BASE
from common.evaluation.records import FILE, IMAGES, Protocol, Record, RecordError
from common.runs import files
from common.runs.directory import RunDirectory
from common.workflows.sample import choose_backend


def _named(name: str) -> str:
    if not name.strip():
        raise ValueError("a name is needed")
    return name


class ImagesOptions(Table):
    """Options of `drift eval --folder` that are checked before anything is read."""

    name: Annotated[Name, AfterValidator(_named)] = key("images", "of the method")
    splits: tuple[Split, ...] = key((), "which prompts; () = those that there are", strict=False)
    real: str | None = key(None, "a folder of real images; None = the run's evaluate.real")


@dataclass(frozen=True)
class Request:
    """Images to measure: like `run`, under these of its protocols, as the method `method`."""

    run: RunDirectory
    images: Collection
    method: ImageMethod
    protocols: list[Protocol]
    backend: Backend
    real: RealImages | None
    remarks: list[str]


def plan(path: Path, place: Path, chosen: ImagesOptions, backend: str | None) -> Request:
    """What to measure, and the folder of the method beside the run. Raises RequestError."""
    with preparing():
        run = RunDirectory.open(path)
        measured = [
            record.protocol
            for record in records.load(run)
            if record.variant == BASE and (record.protocol.split in (chosen.splits or SPLITS))
        ]
        if not measured:
            raise RequestError(
                f"{path} was not measured{_on(chosen.splits)}: run `drift eval` on it first, since "
                "its prompts, number of images and measures count"
            )
        known = {text for how in measured for text in how.prompts}
        images = collection.read(place, known)
        protocols, remarks = collection.choose(images, measured, path)
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


def measure_images(request: Request, cache: Path | None, *, quiet: bool, trust: bool) -> int:
    """Measure what is missing; the number of new records of the images.

    Raises RecordError where the method has records of other images, ImagesError for one that is
    damaged or of another size than the base model's.
    """
    run, method = request.run, request.method
    known = {(each.variant, each.protocol): each for each in records.load(method)}
    digests = {how: request.images.digest(how.prompts) for how in request.protocols}
    for how, digest in digests.items():
        there = known.get((IMAGES, how))
        if there is not None and there.weights != digest:
            raise RecordError(
                f"{method.path} has records of other images: remove that folder to measure these, "
                "or choose another --name"
            )
    missing = [how for how in digests if (IMAGES, how) not in known]
    if not missing:
        return 0
    with consent.required_for(run.path, (), trust=trust):
        store = Cache(cache or run.path.absolute().parent / measure.CACHE)
        measurer = measure.Measurer(run, request.backend, store, real=request.real)
        for how in missing:
            images = request.images.images(how.prompts, measurer.size(how))
            method.save()
            with measure.locked(method.path / FILE.parent):
                record = measurer.measure_images(how, images, digests[how], method.path)
                if (BASE, how) not in known:
                    _copy_base(run, method, how)
                records.append(method, record)
            if not quiet:
                say(f"measured {method.note.name} on {how.split} prompts")
    return len(missing)


def rows(request: Request, how: Protocol) -> list[Record]:
    """The records of the method under a protocol: of the base model, then of the images."""
    measured = {each.variant: each for each in records.load(request.method) if each.protocol == how}
    return [measured[BASE], measured[IMAGES]]


def _on(splits: Sequence[Split]) -> str:
    return f" on {' and '.join(splits)} prompts" if splits else ""


def _real(run: RunDirectory, protocols: Sequence[Protocol], name: str | None) -> RealImages | None:
    """The real images that the protocols compare with; RequestError where they are others."""
    wanted = {how.real for how in protocols if how.real}
    if not wanted:
        if name is not None:
            raise RequestError(f"--real: {run.path} was measured without real images")
        return None
    place = name or run.config.evaluate.real
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

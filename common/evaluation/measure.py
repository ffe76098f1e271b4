"""Measures the checkpoints of a run: the same prompts, noise and measures for every method.

`Measurer` makes the record of one variant under one protocol; `evaluate` makes all records of a
list that the run does not have yet. Images and features of the base model are in a cache that
several runs share.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import pictures
from common.adapters import low_rank
from common.arrays import digest
from common.backends import Backend
from common.evaluation import base_images, records
from common.evaluation.base_images import OnImages
from common.evaluation.cache import Cache, Written
from common.evaluation.families import measures_for
from common.evaluation.foreign import RealImages
from common.evaluation.image_sampler import ImageSampler
from common.evaluation.instruments import Instruments, source
from common.evaluation.records import Protocol, Record, RecordError, Split, Variant
from common.prompts import PromptError, PromptSet, load as load_prompts, of_split
from common.rewards import FEATURES, held_out
from common.runs import checkpoint, files, lock
from common.runs.directory import RunDirectory

COLUMNS = 8
"""Images of each prompt in a record's picture."""

CACHE = "evaluation-cache"
"""The folder of the cache, beside the run."""


def protocol(
    run: RunDirectory,
    split: Split,
    *,
    prompts: int,
    images: int,
    steps: int,
    seed: int,
    scorers: Sequence[str] = (),
    features: Sequence[str] = (),
    real: RealImages | None = None,
) -> Protocol:
    """The protocol of a run for one split: prompts and sampling settings.

    train: the run's own training prompts. validation, test: prompts of the run's source that
    belong to the split and that the run was never trained on. At most `prompts` of them
    (0 = all), the first by the SHA-256 of their text. scorers: held-out rewards; () takes those
    of `evaluate.scorers`. features: names of image features; () takes `evaluate.features`. real:
    real images that the images are compared with.

    Raises PromptError when there are none, RewardNameError for a scorer that is no reward or that
    the run maximises and for features that there are not, and ValueError when the model's files
    cannot be read.
    """
    settings = run.config.evaluate
    heldout = tuple(dict.fromkeys(scorers or settings.scorers))
    held_out.check_names(run.config.reward, heldout)
    for name in features or settings.features:
        FEATURES.check(name, settings.options_of(name))
    how = measures_for(run.config.model.family)
    first, *more = how.feature_labels(run.config, features)
    chosen = _prompts(run, split, prompts)
    return Protocol(
        images=images,
        steps=steps,
        seed=seed,
        model=how.model(run.config),
        split=split,
        prompts=tuple(prompt.text for prompt in chosen),
        features=first,
        sampler=how.sampler(run.config),
        scorers=heldout,
        more_features=tuple(more),
        real=real.digest if real is not None else "",
    )


def evaluate(
    run: RunDirectory,
    backend: Backend,
    protocols: Sequence[Protocol],
    variants: Sequence[Variant],
    *,
    cache: Path,
    on_record: Callable[[Record, bool], None],
    on_images: OnImages | None = None,
    real: RealImages | None = None,
    keep: bool = True,
) -> Written:
    """Measure every variant under every protocol, in that order, if the run has no record of it.

    Each record is on disk before the next one starts, and the images of each prompt before those
    of the next; after a kill the same call again continues, and ends with the same bytes.

    Args:
        run: the run.
        backend: where to compute.
        protocols: how images are made and measured.
        variants: the weights, and how they are sampled.
        cache: the folder of images.
        on_record: called with each record, old or new, and with whether it is new.
        on_images: called before the first batch of images and after each.
        real: the real images of the protocols.
        keep: keep the images of checkpoints too, not of the base model alone.

    Returns:
        What was added to the cache.

    Raises:
        RecordError: the run's records are damaged, or of other weights than the checkpoint's.
        CheckpointError: a checkpoint that is not there or damaged.
        RewardError, NotFiniteError, OSError: the work failed; finished records stay.
    """
    with locked(run.path / records.FILE.parent):
        known = {(record.variant, record.protocol): record for record in records.load(run)}
        store = Cache(cache)
        measurer = Measurer(run, backend, store, on_images, real, keep=keep)
        for variant in variants:
            weights, parameters = measurer.weights(variant)
            for how in protocols:
                record = known.get((variant, how))
                if record is not None and record.weights != weights:
                    raise RecordError(
                        f"{run.path / records.FILE}: update {variant.update} was measured with "
                        "other weights than its checkpoint has now; remove the folder "
                        f"{run.path / records.FILE.parent} to measure the run again"
                    )
                if is_new := record is None:
                    record = measurer.measure(variant, how, weights, parameters)
                    records.append(run, record)
                on_record(record, is_new)
        measurer.end()
    return store.written


def help_process_0(run: RunDirectory, backend: Backend) -> None:
    """Sample what process 0 asks for in its `evaluate`; what the other processes do."""
    policy = backend.policy(run.config.model, run.config.adapter, seed=run.config.run.seed)
    ImageSampler(policy, backend, run.config.rollout).serve()


class Measurer:
    """Measures the weights of one run.

    Raises ValueError when the run's model or rewards cannot be loaded here.
    """

    def __init__(
        self,
        run: RunDirectory,
        backend: Backend,
        cache: Cache,
        on_images: OnImages | None = None,
        real: RealImages | None = None,
        *,
        keep: bool = True,
    ) -> None:
        config = run.config
        self._on_images, self._keep = on_images, keep
        self._run, self._backend, self._cache = run, backend, cache
        self._policy = backend.policy(config.model, config.adapter, seed=config.run.seed)
        self._sampler = ImageSampler(self._policy, backend, config.rollout)
        to_numpy = backend.to_numpy
        parameters = self._policy.parameters()
        self._base = {name: to_numpy(value) for name, value in parameters.items()}
        self._model = measures_for(config.model.family).model(config)
        self._instruments = Instruments.of_run(run, backend, on_images, real)
        self._compared: dict[Protocol, dict[str, np.ndarray]] = {}
        self._sizes: dict[Protocol, tuple[int, int]] = {}

    def end(self) -> None:
        """Let the other processes go on."""
        self._sampler.end()

    def weights(self, variant: Variant) -> tuple[str, dict[str, np.ndarray]]:
        """Digest and parameters of a variant's weights; the digest of the base is the model's.

        Raises CheckpointError when its checkpoint is not there or damaged.
        """
        if variant.update == 0 or variant.scale == 0.0:
            return self._model, self._base
        tuned = checkpoint.load(self._run.checkpoints / f"{variant.update:06d}").weights
        kind = self._run.config.adapter
        parameters = low_rank.scaled(tuned, self._base, kind, variant.scale)
        return digest(parameters, self._model, str(kind.alpha)), parameters

    def measure(
        self,
        variant: Variant,
        how: Protocol,
        weights: str,
        parameters: Mapping[str, np.ndarray],
    ) -> Record:
        """One record; its picture is on disk by then. weights, parameters: from `weights`."""
        self._instruments.prepare(how)
        self._compared_with(how)
        images = self._images(how, variant, weights, parameters, _name(variant, how))
        return make_record(
            self._instruments,
            how,
            images,
            self._compared_with(how),
            variant=variant,
            weights=weights,
            place=self._run.path,
        )

    def size(self, how: Protocol) -> tuple[int, int]:
        """(Height, width) of the base model's images, which are drawn or read for it."""
        self._instruments.prepare(how)
        self._compared_with(how)
        return self._sizes[how]

    def measure_images(
        self, how: Protocol, images: np.ndarray, images_digest: str, place: Path
    ) -> Record:
        """The record of images made elsewhere, [P, n, H, W, 3], of the size that `size` gives.

        Its picture is below `place` by then.
        """
        self._instruments.prepare(how)
        base = self._compared_with(how)
        return make_record(self._instruments, how, images, base, weights=images_digest, place=place)

    def _compared_with(self, how: Protocol) -> dict[str, np.ndarray]:
        """Features of the base model's images by their name, [P, n, F] each.

        These images have another seed than the images that are measured; so the base model itself
        can be measured like any other.
        """
        if how not in self._compared:
            other = replace(how, seed=(how.seed + 1) % 2**63)
            name = f"to compare with, {how.split}"
            images = self._images(other, Variant(0), self._model, self._base, name)
            self._compared[how] = self._instruments.features(how, images)
            self._sizes[how] = images.shape[2:4]
        return self._compared[how]

    def _images(
        self,
        how: Protocol,
        variant: Variant,
        weights: str,
        parameters: Mapping[str, np.ndarray],
        name: str,
    ) -> np.ndarray:
        """Images uint8 [P, n, H, W, 3]: those that are kept, and the others sampled."""

        def sample(done: int) -> Iterator[np.ndarray]:
            return self._sample(how, variant, parameters, name, done)

        if self._keep or weights == self._model:
            made_from = self._made_from(how, variant, weights)
            count = len(how.prompts) * how.images
            images = self._cache.images(made_from, count, sample, together=how.images)
        else:
            images = np.concatenate(list(sample(0)))
        return images.reshape(len(how.prompts), how.images, *images.shape[1:])

    def _sample(
        self,
        how: Protocol,
        variant: Variant,
        parameters: Mapping[str, np.ndarray],
        name: str = "",
        done: int = 0,
    ) -> Iterator[np.ndarray]:
        report = self._on_images
        return self._sampler.batches(
            parameters,
            how.prompts,
            how.images,
            steps=how.steps,
            seed=how.seed,
            done=done,
            prompt_noise=variant.prompt_noise,
            aig=variant.aig,
            on_progress=None if report is None else lambda done, total: report(name, done, total),
        )

    def _made_from(self, how: Protocol, variant: Variant, weights: str) -> dict[str, Any]:
        """Everything that determines the images, for the cache."""
        aig = variant.aig if weights != self._model else 0.0
        return {
            "weights": weights,
            "prompts": how.prompts,
            "images": how.images,
            "prompt_noise": variant.prompt_noise,
            **({"aig": aig} if aig else {}),
            **base_images.circumstances(self._policy, self._backend, self._run.config.rollout, how),
        }


def make_record(
    instruments: Instruments,
    how: Protocol,
    images: np.ndarray,
    base: Mapping[str, np.ndarray] | None,
    *,
    weights: str,
    place: Path,
    variant: Variant = records.IMAGES,
) -> Record:
    """The record of images [P, n, H, W, 3]; its picture is below `place` by then.

    instruments: prepared for the protocol. base: features of the base model's images by their
    name, [P, n, F] each; None without a base model. weights: digest of what the images are from.
    """
    by_prompt, overall = instruments.measure(how, images, base)
    return Record(
        variant=variant,
        protocol=how,
        by_prompt=by_prompt,
        frechet=overall.pop(records.FRECHET, None),
        weights=weights,
        grid=_save_picture(place / records.FILE.parent, variant, how, images),
        overall=overall,
        real_folder=instruments.real_folder if how.real else "",
    )


def _name(variant: Variant, how: Protocol) -> str:
    """What is sampled, in words."""
    return f"{variant.name}, {how.split}"


def _save_picture(folder: Path, variant: Variant, how: Protocol, images: np.ndarray) -> str:
    """Write the picture of a record into a folder; its name."""
    description = json.dumps(how.values(), sort_keys=True).encode()
    short = hashlib.sha256(description).hexdigest()[:8]
    which = "images" if variant == records.IMAGES else f"{variant.update:06d}"
    name = f"{which}{variant.suffix}-{how.split}-{short}.png"
    picture = pictures.encode_png(pictures.contact_sheet(images[:, :COLUMNS]))
    with files.os_errors_as(f"write {folder / name}"):
        files.write_whole(folder / name, picture)
    return name


def _prompts(run: RunDirectory, split: Split, limit: int) -> PromptSet:
    trained = load_prompts(run.config.prompts)
    if split == "train":
        return of_split(trained, "all", limit)
    texts = {prompt.text for prompt in trained}
    unseen = [prompt for prompt in source(run) if prompt.text not in texts]
    if not unseen:
        raise PromptError(
            f"{run.path}: the run trains on every prompt of {trained.source}, so none is left "
            f"for --split {split}; evaluate it with --split train"
        )
    whole = PromptSet(unseen, f"{trained.source} that the run does not train on")
    return of_split(whole, split, limit, run.config.prompts.held_out)


def locked(folder: Path) -> AbstractContextManager[None]:
    """A context in which this process alone measures the run; RecordError when another does."""
    action = f"write to {folder}"
    with files.os_errors_as(action):
        folder.mkdir(exist_ok=True)
    busy = RecordError(f"another process is measuring {folder.parent}")
    return lock.locked(folder, busy=busy, opening=action)

"""Finds and reads measured runs, and refuses runs that cannot be compared with each other."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import RequestError, listed
from common.evaluation import records, suggested
from common.evaluation.image_methods import NOTE, ImageMethod
from common.evaluation.records import IMAGES, Protocol, Record, Split, Variant
from common.rewards import REWARDS, held_out
from common.runs import checkpoint
from common.runs.directory import CONFIG, DIGESTS, RunDirectory

BASE = Variant(update=0)
"""The model before tuning, the start of every curve."""

ByProtocol = dict[Protocol, dict[Variant, Record]]
"""The measurements of a run by protocol and variant."""


class StudyError(RequestError):
    """Runs that cannot be compared; one line with the runs, the reason and what to do."""


@dataclass(frozen=True)
class Run:
    """A run and its measurements on one split."""

    directory: RunDirectory
    records: Mapping[Variant, Record]

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.directory.config.run.seed

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path


@dataclass(frozen=True)
class Images:
    """Images that were made elsewhere, and their measurements on one split; they have no seed.

    records: of the base model, if there is one, then of the images.
    """

    directory: ImageMethod
    records: Mapping[Variant, Record]

    @property
    def path(self) -> Path:
        """The folder of the measurements."""
        return self.directory.path

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.directory.note.name


class Measured(NamedTuple):
    """What `read` gives: runs of one protocol, and images that were made elsewhere.

    neutral: runs whose only reward is a control; see `common.evaluation.neutral_runs`.
    """

    protocol: Protocol
    runs: list[Run]
    images: list[Images]
    neutral: list[RunDirectory]


Directory = RunDirectory | ImageMethod
"""What has records."""


def read(paths: Iterable[Path], split: Split, until: int | None = None) -> Measured:
    """The protocol that the runs at these paths or in folders below them have in common, and they.

    Neutral runs have no part in that protocol, and their measurements are not read here.

    Of several common protocols the one with the most images, then scorers and features, counts.
    until: measurements after later updates are left out.

    Raises StudyError for runs that cannot be compared, RunError and RecordError for damaged ones.
    """
    directories = find(paths)
    neutral = [each for each in directories if isinstance(each, RunDirectory) and _neutral(each)]
    measurements = {
        directory: _measurements(directory, split)
        for directory in directories
        if directory not in neutral
    }
    if neutral and not any(isinstance(directory, RunDirectory) for directory in measurements):
        names = listed(str(each.path) for each in neutral)
        raise StudyError(
            f"nothing to compare: the only reward of {names} is a control; name the run, too, "
            "that they are the control of"
        )
    if not measurements:
        raise StudyError("nothing to compare: name at least one run")
    protocol = _common_protocol(measurements)
    runs, elsewhere = [], []
    for directory, by_protocol in measurements.items():
        if isinstance(directory, RunDirectory):
            runs.append(_run(directory, by_protocol[protocol], until))
        else:
            elsewhere.append(_images(directory, by_protocol[protocol]))
    first, *others = (*runs, *elsewhere)
    for other in others:
        _check_comparable(first, other)
    return Measured(protocol, runs, elsewhere, neutral)


def _neutral(run: RunDirectory) -> bool:
    """Whether the only reward of a run is a control; a name that is not registered is none."""
    names = held_out.maximised(run.config.reward)
    return bool(names) and all(map(REWARDS.is_control, names))


def find(paths: Iterable[Path]) -> list[Directory]:
    """The runs at the paths; for a folder that is no run, all runs below it, by name.

    So are methods whose images were made elsewhere.
    """
    by_path: dict[Path, Directory] = {}
    for path in paths:
        if not path.is_dir() or any((path / name).exists() for name in (CONFIG, NOTE)):
            folders = [path]
        else:
            folders = sorted(file.parent for name in (CONFIG, NOTE) for file in path.rglob(name))
            if not folders:
                raise StudyError(f"no run in {path}: a run has a {CONFIG}")
        for folder in folders:
            kind = ImageMethod if (folder / NOTE).exists() else RunDirectory
            if folder.resolve() not in by_path:
                by_path[folder.resolve()] = kind.open(folder)
    return list(by_path.values())


# --- reading one run ------------------------------------------------------------------------------


def _measurements(directory: Directory, split: Split) -> ByProtocol:
    """The records of a run on a split, by protocol and variant."""
    path = directory.path
    everything = records.load(directory)
    again = f"run `drift eval {_quoted(path)} --split {split}`, or "
    if isinstance(directory, ImageMethod):
        command = suggested.eval_images(directory, everything)
        again = f"run `{command}`, or " if directory.note.run else ""
        if not everything:
            raise StudyError(f"{path} was not measured: run `{command}`")
    elif not everything:
        if checkpoint.latest(directory.checkpoints) is None:
            raise StudyError(
                f"{path} has no checkpoint to measure: train it with "
                f"`drift run --resume --out {_quoted(path)}`, then `drift eval {_quoted(path)}`"
            )
        raise StudyError(f"{path} was not measured: run `drift eval {_quoted(path)}`")
    by_protocol: ByProtocol = {}
    for record in everything:
        if record.protocol.split == split:
            by_protocol.setdefault(record.protocol, {})[record.variant] = record
    if not by_protocol:
        there = ", ".join(sorted({record.protocol.split for record in everything}))
        raise StudyError(
            f"{path} was measured on {there} prompts, not on {split}: {again}compare with "
            f"--split {there.partition(', ')[0]}"
        )
    return by_protocol


def _run(directory: RunDirectory, everything: Mapping[Variant, Record], until: int | None) -> Run:
    path = directory.path
    last = max(variant.update for variant in everything) if until is None else until
    measured = {v: record for v, record in everything.items() if v.update <= last}
    if BASE not in measured:
        command = suggested.eval_run(directory, measured.values(), [BASE])
        raise StudyError(f"{path} has no measurement of the base model: run `{command}`")
    if len(measured) == 1 < len(everything):
        raise StudyError(f"{path} has no measurement up to update {until}, only later ones")
    if len(measured) == 1:
        raise StudyError(f"{path} has only the base model measured: {_how_to_go_on(directory)}")
    return Run(directory, measured)


def _images(directory: ImageMethod, measured: Mapping[Variant, Record]) -> Images:
    how = next(iter(measured.values())).protocol
    needed = (BASE, IMAGES) if how.has_base else (IMAGES,)
    if lacking := {*needed} - measured.keys():
        raise StudyError(
            f"{directory.path} has no measurement of {min(lacking).name}: run "
            f"`{suggested.eval_images(directory, measured.values())}`"
        )
    return Images(directory, {variant: measured[variant] for variant in needed})


def _how_to_go_on(directory: RunDirectory) -> str:
    command = f"`drift eval {_quoted(directory.path)}`"
    if checkpoint.updates(directory.checkpoints):
        return f"run {command}"
    return f"it has no checkpoint yet; run {command} when it has"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


# --- which runs may be compared -------------------------------------------------------------------


def _common_protocol(measurements: Mapping[Directory, ByProtocol]) -> Protocol:
    """The protocol that all runs have in common; of several the one with the most images."""
    (first, by_protocol), *others = measurements.items()
    shared = dict.fromkeys(by_protocol)
    for directory, other in others:
        left = {protocol: None for protocol in shared if protocol in other}
        if not left:
            why = difference(list(shared)[-1], list(other)[-1])
            raise StudyError(f"{first.path} and {directory.path} cannot be compared: {why}")
        shared = left
    protocol = max(shared, key=_extent)
    if protocol.images < 2:
        raise StudyError(
            f"{first.path} was measured with 1 image of each prompt, which has no diversity: "
            "measure with at least 2"
        )
    return protocol


def _extent(how: Protocol) -> tuple[int, int]:
    """How much was measured: the images, then the axes."""
    axes = len(how.scorers) + len(how.more_features) + bool(how.real)
    return how.images * len(how.prompts), axes


def difference(one: Protocol, other: Protocol) -> str:
    """The first difference of two protocols, in words."""
    name = next(
        field.name
        for field in fields(Protocol)
        if getattr(one, field.name) != getattr(other, field.name)
    )
    before, after = getattr(one, name), getattr(other, name)
    if name in ("model", "steps", "seed") and one.has_base != other.has_base:
        return (
            "only one of them has a base model: measure the images of the other like a run, "
            "`drift eval RUN --folder DIR`"
        )
    if name == "model":
        return f"they have other base models ({before[:12]} and {after[:12]})"
    if name in ("scorers", "more_features"):
        what = "held-out scorers" if name == "scorers" else "further features"
        ours, theirs = (", ".join(names) or "none" for names in (before, after))
        return f"they were measured with the {what} {ours} and {theirs}"
    if name == "real":
        ours, theirs = (digest[:-52] or "none" for digest in (before, after))
        return f"they were compared with other real images ({ours} and {theirs})"
    if name == "sampler" and not one.has_base:
        return f"one has {before}, the other {after}"
    if name in records.OPTIONAL and not (before and after):
        return f"they were measured as models of other families ({name} {before or after!r})"
    if name == "prompts":
        return f"they were measured on other prompts ({len(before)} and {len(after)} of them)"
    return f"they were measured with {name} = {before} and {after}"


def _check_comparable(one: Run | Images, other: Run | Images) -> None:
    pair = f"{one.path} and {other.path} cannot be compared"
    ours, prompts = rewards(one.directory), training_prompts(one.directory)
    if ours != (theirs := rewards(other.directory)):
        raise StudyError(f"{pair}: they maximise other rewards, {ours} and {theirs}")
    before, after = (next(iter(run.records.values())).measures for run in (one, other))
    if before != after:
        odd = min({*before} ^ {*after})
        raise StudyError(f"{pair}: only one of them was measured with {odd}; evaluate both again")
    if prompts != training_prompts(other.directory):
        raise StudyError(f"{pair}: they were trained on other prompts (see [prompts] of each)")


def rewards(directory: Directory) -> dict[str, Any]:
    """What a run maximises, as it is compared; of images made elsewhere that of their run."""
    if isinstance(directory, ImageMethod):
        return directory.note.reward
    reward = directory.config.reward
    return {**reward.terms, "combine": reward.combine}


def training_prompts(directory: Directory) -> dict[str, Any]:
    """The training prompts of a run; a file of prompts is compared by its content."""
    if isinstance(directory, ImageMethod):
        return directory.note.prompts
    prompts = directory.config.prompts.model_dump(mode="json")
    digest = directory.environment().get(DIGESTS, {}).get("prompts.source")
    return prompts | ({"source": digest} if digest else {})

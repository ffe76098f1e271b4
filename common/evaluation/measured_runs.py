"""Measured runs: found, read, and refused where they cannot be compared with each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import RequestError
from common.evaluation import records
from common.evaluation.records import Protocol, Record, Split, Variant
from common.runs import checkpoint
from common.runs.directory import CONFIG, DIGESTS, RunDirectory

BASE = Variant(update=0)
"""The model before tuning, which every curve starts from."""

Ways = dict[Protocol, dict[Variant, Record]]
"""The measurements of a run, by how they were made."""


class StudyError(RequestError):
    """Runs that cannot be compared; one line that says which, why and what would help."""


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
        """Where it is."""
        return self.directory.path


def read(
    paths: Iterable[Path], split: Split, until: int | None = None
) -> tuple[Protocol, list[Run]]:
    """The runs at these paths, or in folders below them, and how all of them were measured.

    Of runs that were measured in several ways, the way that all share counts; of several such the
    one with the most images. until: what later updates gave is left out.

    Raises StudyError for runs that cannot be compared, RunError and RecordError for damaged ones.
    """
    found = {directory: _measurements(directory, split) for directory in find(paths)}
    if not found:
        raise StudyError("nothing to compare: name at least one run")
    protocol = _common_protocol(found)
    runs = [_run(directory, ways[protocol], until) for directory, ways in found.items()]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    return protocol, runs


def find(paths: Iterable[Path]) -> list[RunDirectory]:
    """The runs at the paths; of a folder that is none, those anywhere below it, by name."""
    found: dict[Path, RunDirectory] = {}
    for path in paths:
        if (path / CONFIG).exists() or not path.is_dir():
            runs = [path]
        else:
            runs = sorted(file.parent for file in path.rglob(CONFIG))
            if not runs:
                raise StudyError(f"no run in {path}: a run has a {CONFIG}")
        for run in runs:
            found.setdefault(run.resolve(), RunDirectory.open(run))
    return list(found.values())


# --- reading one run ------------------------------------------------------------------------------


def _measurements(directory: RunDirectory, split: Split) -> Ways:
    """The records of a run on a split, by protocol and variant."""
    path = directory.path
    everything = records.load(directory)
    if not everything:
        if checkpoint.latest(directory.checkpoints) is None:
            raise StudyError(
                f"{path} has no checkpoint to measure: train it with "
                f"`drift run --resume --out {path}`, then `drift eval {path}`"
            )
        raise StudyError(f"{path} was not measured: run `drift eval {path}`")
    ways: Ways = {}
    for record in everything:
        if record.protocol.split == split:
            ways.setdefault(record.protocol, {})[record.variant] = record
    if not ways:
        there = ", ".join(sorted({record.protocol.split for record in everything}))
        raise StudyError(
            f"{path} was measured on {there} prompts, not on {split}: run `drift eval {path}` "
            f"for that split, or compare with --split"
        )
    return ways


def _run(directory: RunDirectory, everything: Mapping[Variant, Record], until: int | None) -> Run:
    path = directory.path
    last = max(variant.update for variant in everything) if until is None else until
    measured = {v: record for v, record in everything.items() if v.update <= last}
    if BASE not in measured:
        raise StudyError(f"{path} has no measurement of the base model: run `drift eval {path}`")
    if len(measured) == 1 < len(everything):
        raise StudyError(f"{path} has no measurement up to update {until}, only later ones")
    if len(measured) == 1:
        raise StudyError(
            f"{path} has only the base model measured: run `drift eval {path}` when it has "
            "checkpoints"
        )
    return Run(directory, measured)


# --- which runs may be compared -------------------------------------------------------------------


def _common_protocol(found: Mapping[RunDirectory, Ways]) -> Protocol:
    """The way in which all runs were measured, of several the one with the most images."""
    (first, ways), *others = found.items()
    shared = dict.fromkeys(ways)
    for directory, other in others:
        left = {protocol: None for protocol in shared if protocol in other}
        if not left:
            difference = _difference(list(shared)[-1], list(other)[-1])
            raise StudyError(f"{first.path} and {directory.path} cannot be compared: {difference}")
        shared = left
    protocol = max(shared, key=lambda protocol: protocol.images * len(protocol.prompts))
    if protocol.images < 2:
        raise StudyError(
            f"{first.path} was measured with 1 image of each prompt, which has no diversity: "
            "measure with at least 2"
        )
    return protocol


def _difference(one: Protocol, other: Protocol) -> str:
    """The first thing in which two protocols differ, in words."""
    name = next(
        field.name
        for field in fields(Protocol)
        if getattr(one, field.name) != getattr(other, field.name)
    )
    before, after = getattr(one, name), getattr(other, name)
    if name == "model":
        return f"they have other base models ({before[:12]} and {after[:12]})"
    if name == "prompts":
        return f"they were measured on other prompts ({len(before)} and {len(after)} of them)"
    return f"they were measured with {name} = {before} and {after}"


def _check_comparable(one: Run, other: Run) -> None:
    pair = f"{one.path} and {other.path} cannot be compared"
    rewards = _rewards(one)
    if rewards != _rewards(other):
        raise StudyError(f"{pair}: they maximise other rewards, {rewards} and {_rewards(other)}")
    if _prompts(one) != _prompts(other):
        raise StudyError(f"{pair}: they were trained on other prompts (see [prompts] of each)")


def _rewards(run: Run) -> dict[str, Any]:
    reward = run.directory.config.reward
    return {**reward.terms, "combine": reward.combine}


def _prompts(run: Run) -> dict[str, Any]:
    """What a run was trained on; a file of prompts by its content, wherever it lay."""
    prompts = run.directory.config.prompts.model_dump()
    digest = run.directory.environment().get(DIGESTS, {}).get("prompts.source")
    return prompts | ({"source": digest} if digest else {})

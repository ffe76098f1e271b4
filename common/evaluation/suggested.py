"""Commands that messages suggest: complete, and quoted for a shell."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from common.evaluation.families import measures_for
from common.evaluation.image_methods import ImageMethod
from common.evaluation.records import Protocol, Record, Variant
from common.runs.directory import RunDirectory

_SAMPLING_OPTIONS = {"prompts": 24, "images": 16, "steps": 20, "seed": 0}
"""Options of `drift eval` that a protocol has, and their defaults."""


def eval_run(
    run: RunDirectory, measured: Iterable[Record], variants: Iterable[Variant], images: int = 0
) -> str:
    """The command, or several joined by "&&", that measures exactly these variants of a run.

    The base model is measured along with the first.

    Args:
        run: the run.
        measured: records of the protocol, of this run or another.
        variants: the weights, and how they are sampled.
        images: of each prompt; 0 takes that of the protocol.
    """
    measured = list(measured)
    how = measured[0].protocol
    how = replace(how, images=images or how.images)
    by_sampling: dict[tuple[float, float, float], list[int]] = {}
    for variant in sorted(variants):
        knobs = (variant.scale, variant.prompt_noise, variant.aig)
        by_sampling.setdefault(knobs, []).append(variant.update)
    commands = []
    for (scale, noise, aig), updates in by_sampling.items():
        words = ["drift", "eval", str(run.path), *_sampling(how)]
        for update in updates:
            words += ["--checkpoint", str(update) if update else "base"]
        words += _instruments(how.scorers, feature_names(run, how))
        words += _real(run, how, measured)
        words += ["--scale", f"{scale!r}"] if scale != 1 else []
        words += ["--prompt-noise", f"{noise!r}"] if noise else []
        words += ["--aig", f"{aig!r}"] if aig else []
        commands.append(shlex.join(words))
    return " && ".join(commands)


def eval_images(method: ImageMethod, measured: Iterable[Record] = ()) -> str:
    """The command that measures images made elsewhere; measured: records of it or of others."""
    note, measured = method.note, list(measured)
    like = [str(method.path.parent / note.run)] if note.run else []
    words = ["drift", "eval", *like, "--folder", note.folder, "--name", note.name]
    if measured:
        how = measured[0].protocol
        if not note.run:
            words += _instruments(how.scorers, tuple(how.feature_names.values()))
        words += _real(None, how, measured)
    return shlex.join(words)


def attainable(paths: Sequence[Path], how: Protocol, samples: int, ratio: float) -> str:
    """The command that makes the attainable fronts of runs with so many samples and that c."""
    words = ["drift", "eval", *map(str, paths), "--attainable", *_sampling(how, images=False)]
    words += ["--samples", str(samples)] if samples != 256 else []
    words += ["--ratio", f"{ratio:g}"] if ratio != samples / 8 else []
    return shlex.join(words)


def feature_names(run: RunDirectory, how: Protocol) -> list[str]:
    """What `drift eval --feature` names for a protocol; [] where it is the run's default."""
    measures = measures_for(run.config.model.family)
    if measures.feature_labels(run.config) == (how.features, *how.more_features):
        return []
    return [name or measures.OWN_FEATURES for name in how.feature_names.values()]


def real_folder(run: RunDirectory | None, how: Protocol, measured: Iterable[Record]) -> str | None:
    """The folder of the protocol's real images: as it was named, else the run's; None = unknown."""
    named = (each.real_folder for each in measured if each.protocol.real == how.real)
    return next(filter(None, named), None) or (run.config.evaluate.real if run else None)


def _sampling(how: Protocol, *, images: bool = True) -> list[str]:
    words = ["--split", how.split]
    for name, value in _SAMPLING_OPTIONS.items():
        given = len(how.prompts) if name == "prompts" else getattr(how, name)
        if given != value and (images or name != "images"):
            words += [f"--{name}", str(given)]
    return words


def _real(run: RunDirectory | None, how: Protocol, measured: Iterable[Record]) -> list[str]:
    """Only records before there was `Record.real_folder` leave the folder to the user."""
    return ["--real", real_folder(run, how, measured) or "DIR"] if how.real else []


def _instruments(scorers: Iterable[str], features: Iterable[str]) -> list[str]:
    words = [word for name in scorers for word in ("--scorer", name)]
    return words + [word for name in features for word in ("--feature", name)]

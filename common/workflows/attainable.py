"""How much diversity runs can win at all: the fronts of their base models, and their progress."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from common import consent
from common.backends import Backend
from common.choices import Split
from common.console import say
from common.errors import preparing
from common.evaluation import attainable as fronts, attainable_records, measure
from common.evaluation.attainable_records import Solved
from common.evaluation.records import Protocol
from common.report import attainable as words
from common.report.front import measure_name
from common.runs.directory import RunDirectory
from common.workflows import options
from common.workflows.evaluate import protocols
from common.workflows.options import AttainableOptions
from common.workflows.part_progress import PartProgress
from common.workflows.run import RunLike, run_paths
from common.workflows.sample import choose_backend


@dataclass(frozen=True)
class Request:
    """The fronts of one run's base model. ratio: c. asked: what the user names."""

    run: RunDirectory
    protocols: list[Protocol]
    ratio: float
    backend: Backend
    asked: tuple[str, ...]


def attainable(
    runs: RunLike | Iterable[RunLike],
    *,
    splits: Sequence[Split] = ("train", "test"),
    prompts: int = 24,
    samples: int = 256,
    ratio: float | None = None,
    steps: int = 20,
    seed: int = 0,
    scorers: Sequence[str] = (),
    features: Sequence[str] = (),
    backend: str | None = None,
    cache: str | PathLike[str] | None = None,
    progress: bool = True,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """How much diversity runs can win at equal reward, whatever the method.

    The Python form of `drift eval --attainable`. No checkpoint is needed: the images are those of
    the base model. The result goes to RUN/evaluation/attainable.json, and the same call again
    makes only what is missing.

    Args:
        runs: one run or several, or paths of their folders.
        splits: which prompts: "train" (the run's own), "validation", "test" (held out).
        prompts: of each split, at most; 0 = all.
        samples: N, images of each prompt: a multiple of 16, at most 2048.
        ratio: c, how much more likely than under the base model an image may become at most, above
            1 and at most N/4; None: N/8.
        steps: of the ODE.
        seed: of the initial noise.
        scorers: held-out rewards, each an axis of its own; (): the run's `evaluate.scorers`.
        features: image features; (): the run's `evaluate.features`.
        backend: "mlx", "cuda", "cpu" or "auto"; None: the run's if it works here, else the best.
        cache: where runs share their base model's images; None: evaluation-cache beside the run.
        progress: show how far it is; False prints nothing.
        trust: let the runs' configurations import the code that they name.

    Returns:
        A row for each run, split, features and level of the reward: "kl" and "best" are the
        diversity on the two fronts, "gain" is best / kl - 1, with the interval "low" to "high",
        "clear" whether the fronts are further from each other than their intervals.

    Raises:
        drift.RequestError: a run, number or backend that is not there or not valid.
        drift.Error: the work failed; what is finished stays.
    """
    chosen = options.checked(
        AttainableOptions,
        splits=splits,
        prompts=prompts,
        samples=samples,
        ratio=ratio,
        steps=steps,
        seed=seed,
        scorers=scorers,
        features=features,
    )
    planned = plan(run_paths(runs), chosen, backend)
    make_all(planned, None if cache is None else Path(cache), quiet=not progress, trust=trust)
    return [row for each in planned for row in rows(each)]


def plan(paths: Iterable[Path], chosen: AttainableOptions, backend: str | None) -> list[Request]:
    """What to make for each run. RequestError."""
    ratio = chosen.samples / 8 if chosen.ratio is None else chosen.ratio
    fronts.check(chosen.samples, ratio)
    planned = []
    with preparing():
        for path in paths:
            run = RunDirectory.open(path)
            attainable_records.load(run)  # damage shows before the work, not after it
            split_protocols = protocols(run, chosen, chosen.samples)
            for how in split_protocols:
                fronts.check_size(how)
            engine = choose_backend(backend, run)
            planned.append(Request(run, split_protocols, ratio, engine, chosen.asked))
    return planned


def make_all(
    planned: Sequence[Request], cache: Path | None, *, quiet: bool, trust: bool
) -> list[int]:
    """Make what is missing; the number of new fronts of each run.

    Runs with the same base model and reward share their fronts.
    """
    counts = []
    for number, each in enumerate(planned):
        run = each.run
        backend = (each.backend.name, each.backend.dtype)
        earlier = [o for o in planned[:number] if (o.backend.name, o.backend.dtype) == backend]
        allowed = consent.required_for(run.path, each.asked, trust=trust)
        with _Shown(run, quiet=quiet) as shown, allowed:
            count = fronts.attain(
                run,
                each.backend,
                each.protocols,
                ratio=each.ratio,
                cache=cache or run.path.absolute().parent / measure.CACHE,
                progress=fronts.Progress(shown.sampled, shown.solved, shown.finished),
                siblings=[other.run for other in earlier],
            )
        counts.append(count)
    return counts


def solved(request: Request) -> list[tuple[Protocol, Solved]]:
    """The fronts by the run's reward, for each protocol in each of its features."""
    stored = attainable_records.load(request.run)
    results = []
    for how in request.protocols:
        entry = stored.entry(attainable_records.images_of(request.run.config, how))
        for features in how.feature_labels:
            front = entry.front(how.images, request.ratio, features, fronts.REWARD)
            results += [(how, front)] if front else []
    return results


def rows(request: Request) -> list[dict[str, Any]]:
    """A row for each split, features and level of the run's reward: see `attainable`."""
    return [
        {
            "run": str(request.run.path),
            "split": how.split,
            "features": front.features,
            "samples": front.samples,
            "ratio": front.ratio,
            **row,
        }
        for how, front in solved(request)
        for row in words.numbers(front, fronts.REWARD)
    ]


class _Shown(PartProgress):
    """Shows how far a run's fronts are."""

    def __init__(self, run: RunDirectory, *, quiet: bool) -> None:
        self._start = time.perf_counter()
        super().__init__(run.path.absolute().name, quiet=quiet)

    def sampled(self, name: str, done: int, total: int) -> None:
        """Take in that so many base images are drawn and measured."""
        self._advance(name, done, total, "images")

    def solved(self, how: Protocol, axis: str, done: int, total: int) -> None:
        """Take in that a front is solved for so many prompts."""
        self._advance(f"fronts by {measure_name(axis)}, {how.split}", done, total, "prompts")

    def finished(self, how: Protocol, front: Solved) -> None:
        """Take in that a front is on disk."""
        now = time.perf_counter()
        if not self._quiet:
            name = measure_name(front.rewards)
            where = f"{how.split} prompts{words.in_features(front.features)}"
            say(f"solved both fronts by {name}, {where}  ({now - self._start:.1f} s)")
        self._start = now

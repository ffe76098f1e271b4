"""How much diversity is possible at a given reward with a run's base model, whatever the method.

Images of the base model are drawn, scored once, and weighted in the two ways of
`common.algorithm.attainable`. What is there already is not made again: images are in the cache of
base images, scores and fronts in the run's folder.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.algorithm import diversity
from common.backends import Backend
from common.choices import ALIGNMENTS
from common.errors import RequestError
from common.evaluation import attainable_fronts, attainable_records, instruments, measure
from common.evaluation.attainable_records import REWARD, Entry, Solved
from common.evaluation.base_images import BLOCK, BaseImages, OnImages, Part
from common.evaluation.cache import Cache
from common.evaluation.families import measures_for
from common.evaluation.records import HELD_OUT, Protocol
from common.rewards import RewardError, RewardSuite, held_out
from common.runs.directory import RunDirectory

MOST_SAMPLES = 2048
"""Most images of a prompt: the time of a front grows with the square of their number."""

MOST_PAIRS = 1 << 28
"""Most pairs of images of all prompts: 2 GiB of distances."""

Scores = dict[str, np.ndarray]
"""[P, N] by name; NaN where an image has no score, or none yet."""


@dataclass(frozen=True)
class Progress:
    """Receives how far the work is.

    sampled: see `OnImages`. solved: (protocol, axis, prompts that are done, of how many) within one
    front. finished: a front is on disk.
    """

    sampled: OnImages
    solved: Callable[[Protocol, str, int, int], None]
    finished: Callable[[Protocol, Solved], None]


def check(samples: int, ratio: float) -> None:
    """Raise RequestError for an N or a c with which there are no fronts."""
    if not BLOCK <= samples <= MOST_SAMPLES or samples % BLOCK:
        raise RequestError(
            f"--samples {samples}: write a multiple of {BLOCK}, up to {MOST_SAMPLES}"
        )
    if not 1 < ratio <= samples / 4:
        raise RequestError(
            f"--ratio {ratio:g}: write a number above 1 and up to a quarter of --samples, "
            f"{samples / 4:g}"
        )


def check_size(how: Protocol) -> None:
    """Raise RequestError where the scores of a split or its distances would be too large."""
    prompts, samples = len(how.prompts), how.images
    if prompts * samples * max(samples, 256) > MOST_PAIRS:
        most = MOST_PAIRS // (samples * max(samples, 256))
        raise RequestError(
            f"--samples {samples} of {prompts} {how.split} prompts are too many to solve at once: "
            f"choose --prompts {most}, or fewer samples"
        )


def axes_of(run: RunDirectory, how: Protocol) -> list[str]:
    """The measures of alignment of single images: the run's reward, then those it is not for."""
    own = [name for name in ALIGNMENTS if name != REWARD]
    scored = measures_for(run.config.model.family).HAS_ALIGNMENT
    return [REWARD, *(own if scored else []), *(HELD_OUT + name for name in how.scorers)]


def attain(
    run: RunDirectory,
    backend: Backend,
    protocols: Sequence[Protocol],
    *,
    ratio: float,
    cache: Path,
    progress: Progress,
    siblings: Sequence[RunDirectory] = (),
) -> int:
    """Make every front that is not stored; the number of those that were made.

    For each protocol, with its `images` as N, and each of its features: the fronts with weights by
    the run's reward, on every axis, and those with weights by each other axis, which are the limit
    on that axis. What is finished is on disk before the next front begins.

    Args:
        run: its base model counts, and its reward.
        backend: where to compute.
        protocols: how images are made and measured.
        ratio: c, how much more likely than under the base model an image may become at most.
        cache: the folder of base images.
        progress: receives how far the work is.
        siblings: runs on the same backend whose fronts are taken where they are of the same base
            images and reward.

    Raises:
        RecordError: the file is damaged, or another process measures the run.
        ValueError: the base model, a scorer or the features cannot be loaded here.
        RewardError, RequestError, OSError: the work failed; what is finished stays.
    """
    with measure.locked(run.path / attainable_records.FILE.parent):
        maker = _Maker(run, backend, Cache(cache), progress)
        for sibling in siblings:
            maker.adopt(sibling)
        return sum(maker.solve_missing(how, ratio) for how in protocols)


class _Maker:
    """Makes the fronts of one run."""

    def __init__(
        self, run: RunDirectory, backend: Backend, cache: Cache, progress: Progress
    ) -> None:
        self._run, self._backend, self._cache, self._progress = run, backend, cache, progress
        self._stored = attainable_records.load(run)

    def adopt(self, sibling: RunDirectory) -> None:
        """Take over what is stored of a run, of images that this one has nothing of."""
        whole = self._stored.adopted(attainable_records.load(sibling))
        if whole != self._stored:
            self._stored = whole
            attainable_records.save(self._run, whole)

    def solve_missing(self, how: Protocol, ratio: float) -> int:
        """Make the fronts under a protocol that are not stored; the number of them."""
        entry = self._stored.entry(attainable_records.images_of(self._run.config, how))
        axes = axes_of(self._run, how)
        missing = [
            (features, axis)
            for features in how.feature_labels
            for axis in axes
            if not _is_there(entry, how.images, ratio, features, axis, axes)
        ]
        if not missing:
            return 0
        measuring = _Measuring(self._run, self._backend, how, {each for each, _ in missing})
        scores, grams = measuring.look(
            BaseImages(self._run, self._backend, self._cache, self._progress.sampled), entry
        )
        entry = entry.model_copy(
            update={
                "scores": entry.scores
                | {
                    name: [attainable_records.numbers(row) for row in v]
                    for name, v in scores.items()
                }
            }
        )
        self._save(entry)
        by_axis = measuring.axes(scores)
        for features, axis in missing:
            front = self._front(how, ratio, features, axis, by_axis, grams[features])
            others = [f for f in entry.fronts if not _same(f, front)]
            entry = entry.model_copy(update={"fronts": [*others, front]})
            self._save(entry)
            self._progress.finished(how, front)
        return len(missing)

    def _save(self, entry: Entry) -> None:
        self._stored = self._stored.with_entry(entry)
        attainable_records.save(self._run, self._stored)

    def _front(
        self,
        how: Protocol,
        ratio: float,
        features: str,
        axis: str,
        by_axis: Mapping[str, np.ndarray],
        grams: Sequence[np.ndarray],
    ) -> Solved:
        rewards = by_axis[axis]
        known = np.isfinite(rewards).sum(axis=1)
        if (least := int(known.min())) < 2 * how.images / ratio or least < 4:
            raise RewardError(
                f"only {least} of {how.images} images of prompt '{how.prompts[known.argmin()]}' "
                f"have a finite {axis}: too few for fronts"
            )
        task = attainable_fronts.Task(
            rewards=rewards,
            axes=by_axis if axis == REWARD else {axis: rewards},
            grams=grams,
            ratio=ratio,
            prompts=how.prompts,
            seed=how.seed,
        )
        total = len(how.prompts)
        self._progress.solved(how, axis, 0, total)
        result = attainable_fronts.solve(
            task, lambda done: self._progress.solved(how, axis, done, total)
        )
        return Solved(
            samples=how.images,
            ratio=ratio,
            features=features,
            rewards=axis,
            base=result.base,
            axes=result.axes,
            gap=result.gap,
            left_out=int(rewards.size - known.sum()),
            replicas=attainable_fronts.REPLICAS,
            confidence=attainable_fronts.CONFIDENCE,
        )


class _Measuring:
    """What images are measured with. Raises ValueError when it cannot be loaded here.

    features: those of the protocol, in words as there, that are needed.
    """

    def __init__(
        self, run: RunDirectory, backend: Backend, how: Protocol, features: Collection[str]
    ) -> None:
        config, self._how = run.config, how
        self._suites = {REWARD: RewardSuite(config.reward.terms, backend, config.reward)}
        for name in how.scorers:
            self._suites[HELD_OUT + name] = held_out.suite(name, backend, config.reward)
        self._measures = measures_for(config.model.family)(config, backend)
        names = zip(how.feature_labels, how.feature_names.values(), strict=True)
        self._features = {label: name for label, name in names if label in features}
        self._measures.prepare(tuple(self._features.values()))
        by_text = {prompt.text: prompt for prompt in instruments.source(run)}
        self._prompts = [by_text[text] for text in how.prompts]

    def look(self, base: BaseImages, entry: Entry) -> tuple[Scores, dict[str, list[np.ndarray]]]:
        """Raw scores [P, N] by name, those of the entry kept; by features each prompt's Gram."""
        P, N = len(self._how.prompts), self._how.images
        scores = {
            name: _widened(attainable_records.array(rows), N) for name, rows in entry.scores.items()
        }
        known = {name: len(rows[0]) for name, rows in entry.scores.items()}
        grams: dict[str, list[np.ndarray]] = {label: [] for label in self._features}
        seen: dict[str, list[np.ndarray]] = {label: [] for label in self._features}
        for part in base.parts(self._how):
            for name, values in self._scored(part, known).items():
                place = np.ix_(list(part.prompts), list(part.numbers))
                scores.setdefault(name, np.full((P, N), np.nan))[place] = values
            for label, name in self._features.items():
                seen[label].append(self._measures.features(part.images, name))
                if part.numbers.stop == N:
                    whole = np.concatenate(seen.pop(label), axis=1)
                    grams[label] += [_gram(own, name) for own in whole]
                    seen[label] = []
        return scores, grams

    def axes(self, scores: Scores) -> Scores:
        """The measures of alignment [P, N] by name, from the raw scores."""
        N = self._how.images
        combined = {
            name: suite.reported({term: scores[_raw(name, term)][:, :N] for term in suite.terms})
            for name, suite in self._suites.items()
        }
        own = {name: scores[name][:, :N] for name in ALIGNMENTS if name in scores}
        return {REWARD: combined.pop(REWARD), **own, **combined}

    def _scored(self, part: Part, known: Mapping[str, int]) -> Scores:
        """The raw scores [G, n] of a part by name, but those that are known."""
        count = part.images.shape[1]
        flat = part.images.reshape(-1, *part.images.shape[2:])
        prompts = [self._prompts[n] for n in part.prompts]
        first = part.numbers.start
        made: Scores = {}
        for name, suite in self._suites.items():
            if any(known.get(_raw(name, term), 0) <= first for term in suite.terms):
                raw = instruments.score(suite, flat, prompts, first=first)
                made |= {_raw(name, term): values for term, values in raw.items()}
        own = [name for name in ALIGNMENTS if name != REWARD]
        if self._measures.HAS_ALIGNMENT and any(known.get(name, 0) <= first for name in own):
            texts = [prompt.text for prompt in prompts for _ in range(count)]
            made |= self._measures.alignments(flat, texts)
        return {name: _rounded(values).reshape(-1, count) for name, values in made.items()}


def _raw(suite: str, term: str) -> str:
    """The name of raw scores: those of a held-out reward have only one term."""
    return f"{REWARD}/{term}" if suite == REWARD else suite


def _widened(values: np.ndarray, count: int) -> np.ndarray:
    """[P, n] with NaN up to [P, count], if n is less."""
    return np.pad(values, ((0, 0), (0, max(count - values.shape[1], 0))), constant_values=np.nan)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Nine digits, as they are stored: fronts do not depend on whether scores were read again."""
    return np.array([float(f"{value:.9g}") for value in np.asarray(values, dtype=np.float64).flat])


def _gram(features: np.ndarray, name: str) -> np.ndarray:
    """Cosines [N, N] of features [N, F], as the measure of diversity has them."""
    if not np.isfinite(features).all():
        raise RewardError(f"the features {name} of an image are not finite")
    return 1.0 - diversity.cosine_distances(features)


def _is_there(
    entry: Entry, samples: int, ratio: float, features: str, axis: str, axes: Sequence[str]
) -> bool:
    """Whether a front is stored, and with weights by the reward also every axis of it."""
    front = entry.front(samples, ratio, features, axis)
    return front is not None and set(axes if axis == REWARD else [axis]) <= front.axes.keys()


def _same(one: Solved, other: Solved) -> bool:
    keys = ("samples", "ratio", "features", "rewards")
    return all(getattr(one, key) == getattr(other, key) for key in keys)

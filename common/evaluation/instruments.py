"""What the images of a run are measured with: its reward, held-out rewards and image features."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from common.backends import Backend
from common.config import Config
from common.evaluation import records
from common.evaluation.base_images import OnImages
from common.evaluation.families import measures_for
from common.evaluation.foreign import RealImages
from common.evaluation.measures import Measures, frechet
from common.evaluation.records import Protocol
from common.prompts import Prompt, PromptSet, load as load_prompts
from common.rewards import RewardError, RewardSuite, finite_mean, held_out
from common.runs.directory import RunDirectory


class Instruments:
    """Measures images, whatever they were made by."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        measures: Measures,
        prompts: Iterable[Prompt],
        *,
        rewards: RewardSuite | None = None,
        on_images: OnImages | None = None,
        real: RealImages | None = None,
    ) -> None:
        """Instruments with these settings and prompts.

        rewards: of a run; None measures no reward. real: of the protocols that have some.
        """
        self._config, self._backend = config, backend
        self._measures, self._rewards = measures, rewards
        self._on_images, self._real = on_images, real
        self._prompts = {prompt.text: prompt for prompt in prompts}
        self._heldout: dict[str, RewardSuite] = {}
        self._real_features: dict[str, np.ndarray] = {}

    @classmethod
    def of_run(
        cls,
        run: RunDirectory,
        backend: Backend,
        on_images: OnImages | None = None,
        real: RealImages | None = None,
    ) -> "Instruments":
        """Those of a run. Raises ValueError when its rewards cannot be loaded here."""
        config = run.config
        return cls(
            config,
            backend,
            measures_for(config.model.family)(config, backend),
            source(run),
            rewards=RewardSuite(config.reward.terms, backend, config.reward),
            on_images=on_images,
            real=real,
        )

    @property
    def real_folder(self) -> str:
        """The folder of the real images; "" where there are none."""
        return "" if self._real is None else str(self._real.folder.absolute())

    def prepare(self, how: Protocol) -> None:
        """Load what a protocol measures with: what is not there shows before the work.

        Raises RewardNameError for a scorer or features, and ImagesError for a real image that is
        damaged.
        """
        self._measures.prepare(tuple(how.feature_names.values()))
        if self._real is not None and how.real:
            for name in how.feature_names.values() - self._real_features.keys():
                self._real_features[name] = self._features_of_real(self._real, name)
        for name in how.scorers:
            if name not in self._heldout:
                self._heldout[name] = held_out.suite(name, self._backend, self._config.reward)

    def features(self, how: Protocol, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every feature of images uint8 [P, n, H, W, 3] by its name: float64 [P, n, F] each."""
        names = how.feature_names.values()
        return {name: self._measures.features(images, name) for name in names}

    def measure(
        self, how: Protocol, images: np.ndarray, base: Mapping[str, np.ndarray] | None
    ) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
        """The measures of each prompt, and those of all images together; see `Protocol`.

        Args:
            how: a protocol that was given to `prepare`.
            images: uint8 [P, n, H, W, 3].
            base: `features` of the base model's images; None without a base model.
        """
        by_prompt = {
            **self._scores(how, images.reshape(-1, *images.shape[2:])),
            **self._measures.by_prompt(images, how.prompts),
        }
        overall: dict[str, float] = {}
        for suffix, name in how.feature_names.items():
            seen = self._measures.features(images, name)
            before = None if base is None else base[name]
            if before is not None:
                other = self._measures.reference(name, how.prompts, before)
                overall[records.in_features(records.FRECHET, suffix)] = frechet(seen, other)
            if how.real:
                to_real = frechet(seen, self._real_features[name])
                overall[records.in_features(records.FRECHET_REAL, suffix)] = to_real
            for measure, values in self._measures.in_features(seen, before).items():
                by_prompt[records.in_features(measure, suffix)] = values
        return {name: tuple(map(float, values)) for name, values in by_prompt.items()}, overall

    def _features_of_real(self, real: RealImages, name: str) -> np.ndarray:
        report, what = self._on_images, f"real images, {name}" if name else "real images"
        return real.features(
            lambda images: self._measures.flat_features(images, name),
            None if report is None else lambda done, total: report(what, done, total),
        )

    def _scores(self, how: Protocol, flat: np.ndarray) -> dict[str, np.ndarray]:
        """What the run maximises, and each held-out reward: see `_mean`, by measure."""
        scores = {}
        if self._rewards is not None:
            scores["reward"] = self._mean(self._rewards, how, flat, "reward")
        for name in how.scorers:
            what = f"score by '{name}'"
            scores[records.HELD_OUT + name] = self._mean(self._heldout[name], how, flat, what)
        return scores

    def _mean(self, suite: RewardSuite, how: Protocol, flat: np.ndarray, what: str) -> np.ndarray:
        """Mean of a reward over a prompt's images that have a score: [P]."""
        scores = score(suite, flat, [self._prompts[text] for text in how.prompts])
        by_group = {name: values.reshape(-1, how.images) for name, values in scores.items()}
        total = finite_mean(suite.reported(by_group), axis=1)
        if not np.isfinite(total).all():
            text = how.prompts[int(np.flatnonzero(~np.isfinite(total))[0])]
            raise RewardError(f"no image of prompt '{text}' has a finite {what}")
        return total


def score(
    suite: RewardSuite,
    images: np.ndarray,
    prompts: Sequence[Prompt],
    *,
    noun: str = "image",
    first: int = 0,
) -> dict[str, np.ndarray]:
    """The raw scores of images, equally many of each prompt: float64 [N] by term.

    Args:
        suite: the rewards.
        images: uint8 [N, H, W, 3], those of the first prompt first.
        prompts: P prompts; each has N / P images.
        noun: what an error message calls an image.
        first: the number of the first image of each prompt, for an error message.
    """
    count = len(images) // len(prompts)
    repeated = [prompt for prompt in prompts for _ in range(count)]
    return suite.score(
        images,
        [prompt.text for prompt in repeated],
        [prompt.metadata for prompt in repeated],
        describe=lambda n: f"prompt '{repeated[n].text}', {noun} {first + n % count}",
    )


def source(run: RunDirectory) -> PromptSet:
    """All prompts of the run's source."""
    whole = run.config.prompts.model_copy(update={"names": (), "split": "all", "limit": 0})
    return load_prompts(whole)

"""What the single stages add up to: a rollout, what follows from its images, and five updates."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common import checkpoint, credit, noise
from common.algorithm import diversity, shaping
from common.backend import Backend
from common.clock import Clock
from common.conditioner import Conditioner
from common.config import Config
from common.noise import NoiseKey, Purpose
from common.parity.bench import Bench, draw, settings
from common.parity.measure import CHANGE, EXACT, ROLLOUT, UPDATES, Measured
from common.process import FlowProcess
from common.prompts import Prompt, batch, load as load_prompts
from common.rewards import RewardSuite, combine
from common.rollout import Sampler, Trajectories, plan_steps
from common.run_directory import RunDirectory
from common.trainer import Trainer

SMALL = (
    'prompts.names=["rose", "owl"]',
    "rollout.prompts=2",
    "rollout.group_size=4",
    "rollout.batch_size=8",
)

METRICS = ("reward/mean", "diversity/group")


def rollout(bench: Bench) -> Iterator[Measured]:
    """Ten stochastic steps with prompt noise by the adapted model, each backend on its own path.

    Images are rounded latents: a pixel that lies between two grey levels may go either way, and
    rewards, potentials and advantages carry that on. They are each backend's own.
    """
    config = settings(*SMALL, "rollout.train_last_step=true")
    prompts = batch(load_prompts(config.prompts), count=2, seed=config.run.seed, update=0)
    found = _sample(bench, config, prompts)
    kept = {f"step {k}": found.next_latents[:, k] for k in range(config.rollout.steps)}
    yield Measured("rollout latents", kept, ROLLOUT)
    yield Measured("rollout log-probs", {"log_probs": found.log_probs}, ROLLOUT)
    yield Measured("rollout final latents", {"final": found.next_latents[:, -1]}, ROLLOUT)
    yield Measured("rollout images", {"images": found.images}, ROLLOUT)
    rewards, features = _score(bench.backend, config, prompts, found.images)
    assigned = _credit(config, rewards, features)
    yield Measured("rollout rewards", {"rewards": rewards}, ROLLOUT)
    yield Measured("rollout potentials", {"potentials": assigned["potentials"]}, ROLLOUT)
    yield Measured("rollout advantages", {"advantages": assigned["advantages"]}, ROLLOUT)


def identical_credit(bench: Bench) -> Iterator[Measured]:
    """Potentials and advantages of drawn rewards and features: host float64, so the same bits."""
    config = settings(*SMALL)
    shape = (config.rollout.prompts, config.rollout.group_size)
    rewards = 6.0 + draw("rewards", shape).astype(np.float64)
    features = draw("features", (*shape, 64))
    yield Measured("credit, identical inputs", _credit(config, rewards, features), EXACT)


def updates(bench: Bench) -> Iterator[Measured]:
    """Five complete updates of a small emoji recipe by the Trainer, read from its files.

    Parameters count as one vector: of single tensors, LoRA's B starts at 0 and is all change.
    """
    config = settings(
        *SMALL,
        "run.updates=5",
        "rollout.steps=4",
        "checkpoint.every=5",
        "evaluate.prompts=1",
        "evaluate.images=2",
        "evaluate.steps=1",
        "evaluate.grid=2",
    )
    with tempfile.TemporaryDirectory(prefix="drift-parity-") as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        Trainer(config, bench.backend, run, observer=_Silent(), stop=threading.Event()).run()
        tuned = checkpoint.load(run.checkpoints / f"{config.run.updates:06d}").parameters
        metrics = run.metrics()
    policy = bench.backend.policy(config.model, config.adapter, seed=config.run.seed)
    after, before = _flat(tuned), _flat(bench.to_host(policy.parameters()))
    yield Measured("five updates, parameters", {"parameters": after}, UPDATES)
    yield Measured("five updates, change", {"change": after - before}, CHANGE)
    for name in METRICS:
        history = {f"update {row['update']}": np.array(row[name]) for row in metrics}
        yield Measured(f"five updates, {name}", history, UPDATES)


class _Silent:
    """An observer that tells nobody."""

    def started(self, plan: dict[str, Any]) -> None:
        """Say nothing."""

    def updated(self, record: dict[str, float]) -> None:
        """Say nothing."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def saved(self, path: Path) -> None:
        """Say nothing."""


def _flat(parameters: dict[str, np.ndarray]) -> np.ndarray:
    """All parameters as one float64 vector, by name."""
    return np.concatenate([parameters[name].ravel() for name in sorted(parameters)], dtype=float)


def _sample(bench: Bench, config: Config, prompts: list[Prompt]) -> Trajectories:
    backend, policy, clock = bench.backend, bench.adapted, Clock()
    process, seed = FlowProcess.of(config.rollout), config.run.seed
    plan = plan_steps(config.rollout, seed=seed, update=0)
    conditioner = Conditioner(config, backend, policy, process, prompts, 0, clock)
    sampler = Sampler(policy, backend, process, conditioner, plan, clock)
    return sampler.sample(prompts, config.rollout, seed=seed, update=0, keep_predicted=False)


def _score(
    backend: Backend, config: Config, prompts: list[Prompt], images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [P, G] and potential features [P, G, F] of the images of a rollout."""
    size = config.rollout.group_size
    repeated = [prompt for prompt in prompts for _ in range(size)]
    suite = RewardSuite(config.reward.terms, backend, config.reward)
    scores = suite.score(
        images,
        [prompt.text for prompt in repeated],
        [prompt.metadata for prompt in repeated],
        describe=lambda n: f"prompt '{repeated[n].text}', sample {n % size}",
    )
    by_group = {name: values.reshape(-1, size) for name, values in scores.items()}
    features = backend.scorer("train").features(images)
    rewards = combine(by_group, suite.terms, method=config.reward.combine)
    return rewards, features.reshape(*rewards.shape, -1)


def _credit(config: Config, rewards: np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:
    key = NoiseKey(config.run.seed, Purpose.SUBSET)
    assigned = credit.assign(config, rewards, features, draws=noise.uniform(key, rewards.shape))
    distances = diversity.cosine_distances(features.astype(np.float64))
    potentials = shaping.potential(distances, kind=config.drift.shaping.potential)
    return {"potentials": potentials, "advantages": assigned.advantages}

"""What the single stages add up to: a rollout, what follows from its images, and five updates."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from common import random
from common.algorithm import diversity, potential
from common.algorithm.potential import Potential
from common.backends import Backend
from common.clock import Clock
from common.config import Config
from common.learning import credit
from common.parity.backend_under_test import (
    STEPS,
    BackendUnderTest,
    draw,
    emoji,
    emoji_named,
    settings,
)
from common.parity.measure import CHANGE, EXACT, ROLLOUT, SINGLE, UPDATES, Measured
from common.progress import NullObserver
from common.prompts import Prompt, batch, load as load_prompts
from common.random import Key, Purpose
from common.rewards import RewardSuite
from common.runs import checkpoint
from common.runs.directory import RunDirectory
from common.sampling.conditioner import Conditioner
from common.sampling.process import FlowProcess
from common.sampling.rollout import Sampler, Trajectories, plan_steps
from common.trainer import Trainer

SMALL = (
    'prompts.names=["rose", "owl"]',
    "rollout.prompts=2",
    "rollout.group_size=4",
    "rollout.batch_size=8",
)

METRICS = ("reward/mean", "diversity/group")

STRONG = "drift.noise.strength=0.3"
NOISES = {
    "additive": (STRONG, "drift.noise.form=additive"),
    "additive, per step": (STRONG, "drift.noise.draw=step", "drift.noise.axis=sigma"),
    "cads": (STRONG, "drift.noise.form=cads", "drift.noise.schedule=cads", "drift.noise.mix=0.8"),
}
"""Forms of prompt noise, by the name of their stage."""

WEIGHT = "drift.shaping.weight=1.0"
CREDITS = {
    "no shaping": ("drift.shaping.mode=none",),
    "terminal": (WEIGHT, "drift.shaping.mode=terminal"),
    "per_step": (WEIGHT, "drift.shaping.mode=per_step"),
    "strict": (WEIGHT, "drift.shaping.mode=strict"),
    "multiplicative": (
        *(WEIGHT, "drift.shaping.mode=multiplicative", "drift.shaping.potential=nearest"),
        "objective.statistics=none",
    ),
    "PODS": ("drift.shaping.mode=none", "drift.subset.rule=maxvar", "drift.subset.keep=3"),
}
"""Every mode of shaping, and PODS, by the name of their stage."""

ONCE = ("evaluate.prompts=1", "evaluate.images=2", "evaluate.steps=1", "evaluate.grid=2")
RUNS = {
    "five updates": ("run.updates=5", "checkpoint.every=5"),
    # What the first run leaves out, all at once; the KL acts from the second optimizer step on.
    "full tuning": (
        *("run.updates=1", "checkpoint.every=1", "rollout.prompts=1", "adapter.kind=full"),
        *("optimizer.learning_rate=1e-5", "optimizer.ema_decay=0.9", "optimizer.ema_every=1"),
        *("rollout.guidance=2.0", "rollout.guidance_gradient=conditional"),
        *("objective.kl_weight=0.04", "objective.optimizer_steps=2", "objective.micro_batch=3"),
        *("drift.subset.rule=maxvar", "drift.subset.keep=3", "drift.shaping.mode=per_step"),
        *("drift.noise.form=cads", "drift.noise.mix=0.8"),
    ),
}
"""Runs of the trainer, by the name of their stages."""


def rollout(subject: BackendUnderTest) -> Iterator[Measured]:
    """Ten stochastic steps with prompt noise by the adapted model, each backend on its own path.

    Images are rounded latents: a pixel halfway between two grey levels may go either way. Rewards
    and potentials are of each backend's own images, so they carry that on; advantages are not
    compared here, because dividing by a group's std makes more of it (5e-4 from two such pixels).
    """
    config = settings(*SMALL, "rollout.train_last_step=true")
    prompts = _prompts(config)
    trajectories = _sample(subject, config, prompts)
    kept = {f"step {k}": trajectories.next_latents[:, k] for k in range(config.rollout.steps)}
    yield Measured("rollout latents", kept, ROLLOUT)
    yield Measured("rollout log-probs", {"log_probs": trajectories.log_probs}, ROLLOUT)
    yield Measured("rollout final latents", {"final": trajectories.next_latents[:, -1]}, ROLLOUT)
    yield Measured("rollout images", {"images": trajectories.images}, ROLLOUT)
    rewards, features = _score(subject.backend, config, prompts, trajectories.images)
    potentials, _ = _credit(config, rewards, features)
    yield Measured("rollout rewards", {"rewards": rewards}, ROLLOUT)
    yield Measured("rollout potentials", {"potentials": potentials}, ROLLOUT)


def assigned_credit(subject: BackendUnderTest) -> Iterator[Measured]:
    """Potentials and advantages: of real images that each backend scores, and of drawn rewards.

    Half of each group's images show its prompt. They are the same everywhere, so only the
    scorer's rounding is in it. With rewards and features drawn too there is nothing left but
    float64 on the host, so the same bits.
    """
    config = settings(*SMALL)
    prompts, half = _prompts(config), config.rollout.group_size // 2
    images = [part for p in prompts for part in (emoji_named(p.text, half), emoji(half))]
    rewards, features = _score(subject.backend, config, prompts, np.concatenate(images))
    potentials, advantages = _credit(config, rewards, features)
    yield Measured("potentials", {"potentials": potentials}, SINGLE)
    yield Measured("advantages", {"advantages": advantages}, SINGLE)
    distances = diversity.cosine_distances(features.astype(np.float64))
    kinds = {kind: potential.per_sample(distances, kind=kind) for kind in get_args(Potential)}
    yield Measured("potentials of every kind", kinds, SINGLE)
    for name, changes in CREDITS.items():
        varied = settings(*SMALL, "rollout.steps=3", *changes)
        _, advantages = _credit(varied, rewards, features)
        yield Measured(f"advantages, {name}", {"advantages": advantages}, SINGLE)
    drawn = 6.0 + draw("rewards", rewards.shape).astype(np.float64)
    potentials, advantages = _credit(config, drawn, draw("features", features.shape))
    yield Measured(
        "potentials and advantages, identical inputs",
        {"potentials": potentials, "advantages": advantages},
        EXACT,
    )


def conditioning(subject: BackendUnderTest) -> Iterator[Measured]:
    """The noised conditioning of four samples at a step each, in every form of NOISES."""
    for name, changes in NOISES.items():
        config = settings(*SMALL, "rollout.group_size=2", *changes)
        process = FlowProcess.from_config(config.rollout)
        parts = config, subject.backend, subject.full, process
        conditioner = Conditioner(*parts, _prompts(config), 0, Clock())
        with subject.backend.inference():
            tokens = conditioner.conditioning(np.arange(len(STEPS)), STEPS).tokens
        yield Measured(f"conditioning, {name}", subject.to_host({"tokens": tokens}), SINGLE)


def updates(subject: BackendUnderTest) -> Iterator[Measured]:
    """Complete updates of a small emoji recipe by the Trainer, read from its files, as in RUNS.

    Parameters count as one vector: of single tensors, LoRA's B starts at 0 and is all change.
    """
    for name, changes in RUNS.items():
        config = settings(*SMALL, "rollout.steps=3", *ONCE, *changes)
        with tempfile.TemporaryDirectory(prefix="drift-parity-") as folder:
            run = RunDirectory.create(Path(folder) / "run", config, {})
            stop = threading.Event()
            Trainer(config, subject.backend, run, observer=NullObserver(), stop=stop).run()
            saved = checkpoint.load(run.checkpoints / f"{config.run.updates:06d}")
            metrics = run.metrics()
        policy = subject.backend.policy(config.model, config.adapter, seed=config.run.seed)
        after, before = _flat(saved.parameters), _flat(subject.to_host(policy.parameters()))
        yield Measured(f"{name}, parameters", {"parameters": after}, UPDATES)
        yield Measured(f"{name}, change", {"change": after - before}, CHANGE)
        if saved.ema is not None:
            yield Measured(f"{name}, average", {"average": _flat(saved.ema)}, UPDATES)
        for metric in METRICS:
            history = {f"update {row['update']}": np.array(row[metric]) for row in metrics}
            yield Measured(f"{name}, {metric}", history, UPDATES)


def _flat(parameters: dict[str, np.ndarray]) -> np.ndarray:
    """All parameters as one float64 vector, by name."""
    return np.concatenate([parameters[name].ravel() for name in sorted(parameters)], dtype=float)


def _prompts(config: Config) -> list[Prompt]:
    """The prompts of the first update."""
    count, seed = config.rollout.prompts, config.run.seed
    return batch(load_prompts(config.prompts), count=count, seed=seed, update=0)


def _sample(subject: BackendUnderTest, config: Config, prompts: list[Prompt]) -> Trajectories:
    backend, policy, clock = subject.backend, subject.adapted, Clock()
    process, seed = FlowProcess.from_config(config.rollout), config.run.seed
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
    rewards = suite.total(by_group)
    return rewards, features.reshape(*rewards.shape, -1)


def _credit(
    config: Config, rewards: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials and advantages [P, G] of rewards [P, G] and features [P, G, F].

    For shaping per step the predicted images of step k are those of the k-th next sample.
    """
    key, predicted = Key(config.run.seed, Purpose.SUBSET), None
    if config.drift.shaping.mode == "per_step":
        predicted = np.stack([np.roll(features, k, axis=1) for k in range(config.rollout.steps)])
    draws = random.uniform(key, rewards.shape)
    assigned = credit.assign(config, rewards, features, draws=draws, predicted_features=predicted)
    distances = diversity.cosine_distances(features.astype(np.float64))
    potentials = potential.per_sample(distances, kind=config.drift.shaping.potential)
    return potentials, assigned.advantages

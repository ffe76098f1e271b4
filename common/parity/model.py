"""A diffusers pipeline on several backends, compared stage by stage: `drift parity --model`.

There is no float64 reference: the real networks have float32 kernels inside. With `model.dtype` or
`model.quantize` the tolerances are those of the digits that weights have left. One backend after
the other does all the work and is then freed, so that one copy of the weights is in memory.
"""

import gc
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from common import backends as registry, config as configuration, pipelines
from common.algorithm import kernels
from common.backends import Backend, Policy
from common.clock import Clock
from common.config import Config, ConfigError
from common.learning.credit import Credit
from common.learning.update import Learner, surrogate_loss
from common.parity.backend_under_test import SEED, draw
from common.parity.compare import Progress
from common.parity.measure import Measured, StageResult, between
from common.parity.precision import Tolerances, tolerances
from common.prompts import Prompt
from common.sampling.conditioner import Conditioner
from common.sampling.process import make_process
from common.sampling.rollout import Sampler, Trajectories, plan_steps

__all__ = ["ModelUnderTest", "compare_model", "settings"]

PROMPTS = ("a red fox in the snow", "two blue cubes")

ADAPTER_SCALE = 0.05
"""Standard deviation of B's elements; a fresh adapter would change nothing."""

ADVANTAGES = np.array([1.5, -0.5])

LOSSES = {
    "loss": (),
    "KL of Flow-GRPO": ("objective.kl_form=flow_grpo",),
    "null branch constant": ("rollout.guidance_gradient=conditional",),
}
"""Forms of the loss by name: changes of the settings."""

FLOW = ("rollout.kernel=flow_sde", "rollout.schedule=model", "rollout.noise_level=0.7")
OWN = {
    "sd15": ("rollout.kernel=ddim", "rollout.noise_level=1.0", "rollout.guidance=5.0"),
    "sd3": (*FLOW, "rollout.guidance=4.5"),
    "flux": FLOW,
}
"""Sampling settings of each family."""


def settings(path: str, changes: Sequence[str] = ()) -> Config:
    """Configuration for the pipeline at `path`: ten steps for two images, two of them trained.

    changes: of the configuration, as `--set` writes them. Raises ValueError in one line for what
    is no pipeline of a known family.
    """
    kind = str(pipelines.index(path).get("_class_name"))
    if kind not in pipelines.FAMILIES:
        valid = ", ".join(pipelines.FAMILIES)
        raise ValueError(f"model.path = '{path}' holds a {kind}; valid: {valid}")
    family = pipelines.FAMILIES[kind]
    every = (
        f"run.seed={SEED}",
        "run.updates=2",
        f"model.family={family}",
        f"model.path={path}",
        "rollout.prompts=1",
        "rollout.group_size=2",
        "rollout.steps=10",
        "rollout.window=0",
        "rollout.trained_steps=2",
        "rollout.batch_size=2",
        "objective.micro_batch=2",
        "drift.noise.strength=0.1",
        "drift.noise.pooled_strength=0.1",
    )
    return configuration.load("emoji-grpo", [*every, *OWN[family], *changes])


def compare_model(
    names: Sequence[str],
    path: str,
    changes: Sequence[str] = (),
    *,
    observer: Progress | None = None,
) -> list[StageResult]:
    """Every stage of an update with the pipeline at `path`, each two backends compared.

    Args:
        names: two backends or more, such as ["cpu", "mlx"].
        path: a diffusers folder or repository.
        changes: of the configuration, as `--set` writes them.
        observer: called with a few words before each piece of work.

    Raises:
        ValueError: fewer than two backends, or a pipeline or a configuration that cannot be used.
        BackendUnavailableError: a backend cannot run here.
    """
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise ValueError("a model is compared on two backends or more, such as cpu,mlx")
    config = settings(path, changes)
    accepted = tolerances(config.model.dtype, config.model.quantize)
    backends = {name: registry.load(name) for name in names}
    stages_of: dict[str, dict[str, Measured]] = {}
    for name, backend in backends.items():
        subject, stages = ModelUnderTest(backend, _settings_on(name, config), accepted), {}
        for title, work in WORK.items():
            if observer is not None:
                observer(f"{title} on {name}")
            stages |= {measured.stage: measured for measured in work(subject)}
        stages_of[name] = stages
        del subject
        gc.collect()
    pairs = list(combinations(names, 2))
    return [
        between(f"{a} vs {b}", stages_of[a][stage], stages_of[b][stage])
        for stage in stages_of[names[0]]
        for a, b in pairs
        if stage in stages_of[a] and stage in stages_of[b]  # not every backend names every part
    ]


def _settings_on(name: str, config: Config) -> Config:
    """The settings on a backend.

    PyTorch on a CPU has neither float16 nor quantised weights: it is a reference in float32.
    """
    if name != "cpu":
        return config
    dtype = "float32" if config.model.dtype == "float16" else config.model.dtype
    return configuration.changed(config, {"model.dtype": dtype, "model.quantize": 0})


class ModelUnderTest:
    """A backend with a pipeline, and the inputs that all backends get."""

    def __init__(
        self, backend: Backend, config: Config, accepted: Tolerances | None = None
    ) -> None:
        self.backend, self.config = backend, config
        self.tolerances = accepted or tolerances(config.model.dtype, config.model.quantize)
        self.prompts = [Prompt(index, text) for index, text in enumerate(PROMPTS)]

    @cached_property
    def policy(self) -> Policy:
        """The pipeline with an adapter that does something."""
        config = self.config
        try:
            policy = self.backend.policy(config.model, config.adapter, seed=config.run.seed)
        except ValueError as error:  # what the user asked for, not what is compared
            raise ConfigError(str(error)) from None
        self.fresh = self.to_host(policy.parameters())
        policy.load_parameters(
            {
                name: ADAPTER_SCALE * draw(name, value.shape) if "lora_B" in name else value
                for name, value in self.fresh.items()
            }
        )
        return policy

    @cached_property
    def inputs(self) -> tuple[Any, Any]:
        """Latents [2, C, H, W] between noise and image, and their times."""
        process = make_process(self.policy, self.config.rollout)
        x = draw("latents", (len(PROMPTS), *self.policy.latent_shape))
        return self.backend.asarray(x), self.policy.embed_time(process.times[[2, 7]])

    @property
    def losses(self) -> dict[str, tuple[str, ...]]:
        """Those of LOSSES that are not the same for this model."""
        rollout = self.config.rollout
        same = {"null branch constant"} if rollout.guidance == 1.0 else set()
        if rollout.kernel not in kernels.SDE_KERNELS:
            same.add("KL of Flow-GRPO")
        return {name: changes for name, changes in LOSSES.items() if name not in same}

    def to_host(self, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
        """Named device arrays as numpy arrays."""
        return {name: self.backend.to_numpy(array) for name, array in arrays.items()}

    def sample(self, update: int) -> tuple[Trajectories, Conditioner, np.ndarray]:
        """Two images of a prompt, with prompt noise; their conditioning; the trained steps."""
        config, policy, clock = self.config, self.policy, Clock()
        process, seed = make_process(policy, config.rollout), config.run.seed
        plan = plan_steps(config.rollout, seed=seed, update=update)
        prompts = [self.prompts[update % len(self.prompts)]]
        conditioner = Conditioner(config, self.backend, policy, process, prompts, update, clock)
        sampler = Sampler(policy, self.backend, process, conditioner, plan, clock)
        trajectories = sampler.sample(
            prompts, config.rollout, seed=seed, update=update, keep_predicted=False
        )
        return trajectories, conditioner, plan.trained


def encoders(subject: ModelUnderTest) -> Iterator[Measured]:
    """Prompts, and the empty one, embedded."""
    accepted = subject.tolerances
    with subject.backend.inference():
        conditioning, null = subject.policy.encode(PROMPTS), subject.policy.null(1)
    arrays = {"tokens": conditioning.tokens, "null": null.tokens}
    yield Measured("text encoders, tokens", subject.to_host(arrays), accepted.single)
    if conditioning.pooled is not None:
        arrays = {"pooled": conditioning.pooled, "null": null.pooled}
        yield Measured("text encoders, pooled", subject.to_host(arrays), accepted.single)


def parts(subject: ModelUnderTest) -> Iterator[Measured]:
    """Results of the denoiser's parts that the backends name alike, and its prediction."""
    accepted = subject.tolerances
    x, time = subject.inputs
    with subject.backend.inference():
        conditioning = subject.policy.encode(PROMPTS)
        with subject.policy.reference():
            off = subject.backend.to_numpy(subject.policy.predict(x, time, conditioning))
        trace = subject.to_host(subject.policy.trace(x, time, conditioning))
    prediction = trace.pop("prediction")
    for name, result in trace.items():
        tolerance = accepted.times if "time" in name else accepted.single
        yield Measured(f"denoiser {name}", {name: result}, tolerance)
    yield Measured("prediction, adapter off", {"prediction": off}, accepted.single)
    yield Measured("prediction, adapter on", {"prediction": prediction}, accepted.single)


def gradients(subject: ModelUnderTest) -> Iterator[Measured]:
    """Gradient of mean (prediction - u)^2 for a drawn u by the adapter, tensor by tensor."""
    accepted = subject.tolerances
    x, time = subject.inputs
    target = subject.backend.asarray(draw("target", x.shape))
    with subject.backend.inference():
        conditioning = subject.policy.encode(PROMPTS)

    def loss(x: Any) -> tuple[Any, dict[str, Any]]:
        return ((subject.policy.predict(x, time, conditioning) - target) ** 2).mean(), {}

    _, _, by_name = subject.backend.value_and_grad(subject.policy, loss)(x)
    yield Measured("gradients, adapter", subject.to_host(by_name), accepted.gradients)


def losses(subject: ModelUnderTest) -> Iterator[Measured]:
    """KL and gradient of the loss of two drawn transitions, in each form of LOSSES.

    The old log-probs are the policy's own, so the ratio is 1 and no rounding carries it over the
    clip.
    """
    accepted = subject.tolerances
    backend, policy, steps = subject.backend, subject.policy, np.array([2, 7])
    shape = (len(PROMPTS), *policy.latent_shape)
    x, following = (backend.asarray(draw(name, shape)) for name in ("latents", "following"))
    for name, changes in subject.losses.items():
        config = configuration.changed(subject.config, ("objective.kl_weight=0.1", *changes))
        process = make_process(policy, config.rollout)
        levels = process.levels(backend, policy, steps)
        with backend.inference():
            conditioning = policy.encode(PROMPTS)
            transition = process.transition(
                x, process.predict(policy, x, levels, conditioning), levels
            )
            with policy.reference():
                prediction = process.predict(policy, x, levels, conditioning)
            batch = {
                "x": x,
                "x_next": following,
                "log_prob": process.log_prob(following, transition),
                "advantage": backend.asarray(ADVANTAGES),
                "weight": backend.asarray(np.full(len(steps), 1.0 / len(steps))),
                "tokens": conditioning.tokens,
                "reference_mean": process.transition(x, prediction, levels).mean,
                **levels._asdict(),
            }
        if conditioning.pooled is not None:
            batch["pooled"] = conditioning.pooled
        loss = surrogate_loss(policy, process, config)
        _, parts, gradients = backend.value_and_grad(policy, loss)(batch)
        yield Measured(f"{name}, KL", subject.to_host({"kl": parts["kl"]}), accepted.gradients)
        yield Measured(f"{name}, gradients", subject.to_host(gradients), accepted.gradients)


def decoding(subject: ModelUnderTest) -> Iterator[Measured]:
    """Drawn latents as images."""
    accepted = subject.tolerances
    x, _ = subject.inputs
    with subject.backend.inference():
        yield Measured("decoded images", {"images": subject.policy.decode(x)}, accepted.images)


def rollout(subject: ModelUnderTest) -> Iterator[Measured]:
    """Ten stochastic steps with prompt noise, each backend on its own path."""
    accepted = subject.tolerances
    config = subject.config
    whole = config.rollout.model_copy(update={"trained_steps": 0})
    kept, subject.config = config, config.model_copy(update={"rollout": whole})
    try:
        trajectories, _, trained = subject.sample(0)
    finally:
        subject.config = kept
    steps = {f"step {k}": trajectories.next_latents[:, i] for i, k in enumerate(trained)}
    yield Measured("rollout latents", steps, accepted.rollout)
    yield Measured("rollout log-probs", {"log_probs": trajectories.log_probs}, accepted.rollout)
    yield Measured("rollout images", {"images": trajectories.images}, accepted.images)


def updates(subject: ModelUnderTest) -> Iterator[Measured]:
    """Two updates from a fresh adapter, with drawn advantages; parameters count as one vector."""
    accepted = subject.tolerances
    config, policy, backend = subject.config, subject.policy, subject.backend
    policy.load_parameters(subject.fresh)
    process = make_process(policy, config.rollout)
    optimizer = backend.optimizer(policy, config.optimizer)
    learner = Learner(config, backend, policy, process, optimizer, None)
    size = (1, config.rollout.group_size)
    for update in range(config.run.updates):
        trajectories, conditioner, trained = subject.sample(update)
        credit = Credit(np.ones(size, bool), draw(f"advantages {update}", size).astype(float), {})
        learner.update(trajectories, credit, trained, conditioner, update)
    values = subject.to_host(policy.parameters())
    flat = np.concatenate([values[name].ravel() for name in sorted(values)], dtype=float)
    yield Measured("two updates, parameters", {"parameters": flat}, accepted.updates)


WORK = {
    "text encoders": encoders,
    "denoiser": parts,
    "gradients": gradients,
    "losses": losses,
    "decoding": decoding,
    "rollout": rollout,
    "two updates": updates,
}
"""Pieces of work by title; each gives one stage or more."""

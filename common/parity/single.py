"""Single stages of an update, each on identical inputs: relative tolerance 1e-5."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np

from common.algorithm import kernels, prompt_noise, schedules
from common.backends import Array, Conditioning, DiffusionSchedule, LossFunction, Policy
from common.parity.backend_under_test import PROMPTS, STEPS, BackendUnderTest, draw, emoji, settings
from common.parity.measure import SINGLE, Measured
from common.sampling.process import DDIMProcess, Levels, Process

NOISE_STRENGTH = 0.3

measured = partial(Measured, tolerance=SINGLE)


def prompt_encoder(subject: BackendUnderTest) -> Iterator[Measured]:
    """`Policy.encode` of four prompts and the null prompt."""
    policy = subject.full
    with subject.backend.inference():
        tokens, null = policy.encode(PROMPTS).tokens, policy.null(2).tokens
    yield measured("prompt encoder", subject.to_host({"tokens": tokens, "null": null}))


def time_features(subject: BackendUnderTest) -> Iterator[Measured]:
    """`Policy.embed_time` of every noise level of the process."""
    features = subject.full.embed_time(subject.process.sigmas)
    yield measured("time features", subject.to_host({"features": features}))


def noised_prompt(subject: BackendUnderTest) -> Iterator[Measured]:
    """`prompt_noise.perturb` of the encoded prompts, in each form, at intensities 1 to 1/4."""
    tokens, asarray = subject.conditioning(subject.full).tokens, subject.backend.asarray
    draws = asarray(draw("prompt noise", tokens.shape))
    intensity = asarray(np.array([1.0, 0.75, 0.5, 0.25]))
    noised = {
        form: prompt_noise.perturb(
            tokens, draws, strength=NOISE_STRENGTH, intensity=intensity, form=form
        )
        for form in get_args(prompt_noise.Form)
    }
    yield measured("prompt noise", subject.to_host(noised))


def layers(subject: BackendUnderTest) -> Iterator[Measured]:
    """Every result that `Policy.trace` names, in order, the base model's velocity the last."""
    policy, x = subject.full, subject.backend.asarray(subject.latents)
    with subject.backend.inference():
        trace = policy.trace(x, subject.levels(policy).time, subject.conditioning(policy))
    for name, result in subject.to_host(trace).items():
        yield measured(f"model {name}", {name: result})


def adapter(subject: BackendUnderTest) -> Iterator[Measured]:
    """The velocity with a low-rank adapter on, and off again under `Policy.reference`."""
    policy = subject.adapted
    yield measured("velocity, adapter on", {"velocity": subject.velocity(policy)})
    with policy.reference():
        yield measured("velocity, adapter off", {"velocity": subject.velocity(policy)})


def gradients(subject: BackendUnderTest) -> Iterator[Measured]:
    """Gradient of the flow-matching loss mean (v - u)^2 for a drawn u, tensor by tensor."""
    for name, policy in (("lora", subject.adapted), ("full", subject.full)):
        inputs = {
            "x": subject.backend.asarray(subject.latents),
            "target": subject.backend.asarray(draw("target", subject.latents.shape)),
            "time": subject.levels(policy).time,
            "tokens": subject.conditioning(policy).tokens,
        }
        _, _, by_name = subject.backend.value_and_grad(policy, _flow_loss(policy))(inputs)
        yield measured(f"gradients, {name}", subject.to_host(by_name))


def transitions(subject: BackendUnderTest) -> Iterator[Measured]:
    """Mean, std and log-prob of each kernel, from drawn predictions.

    The sample whose log-prob it is comes from the kernel in numpy float64.
    """
    x, prediction = subject.latents, draw("velocity", subject.latents.shape)
    asarray = subject.backend.asarray
    for name, process in _processes(subject).items():
        on_host = process.transition(x.astype(np.float64), prediction, _levels(process))
        sample = kernels.sample(on_host, draw("transition", x.shape)).astype(np.float32)
        transition = process.transition(asarray(x), asarray(prediction), _levels(process, asarray))
        log_prob = process.log_prob(asarray(sample), transition)
        yield measured(f"{name} mean", subject.to_host({"mean": transition.mean}))
        yield measured(f"{name} std", subject.to_host({"std": transition.std}))
        yield measured(f"{name} log-prob", subject.to_host({"log_prob": log_prob}))


def optimizer(subject: BackendUnderTest) -> Iterator[Measured]:
    """One AdamW step whose gradient is clipped, from moments that earlier steps left."""
    config = settings("optimizer.learning_rate=0.01", "optimizer.weight_decay=0.1")
    policy = subject.backend.policy(config.model, config.adapter, seed=config.run.seed)
    shapes = {name: value.shape for name, value in subject.to_host(policy.parameters()).items()}
    adamw = subject.backend.optimizer(policy, config.optimizer)
    # The moments of a gradient that was about as large as the clipped one.
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    scale = np.float32(config.optimizer.max_grad_norm / np.sqrt(size))
    state: dict[str, np.ndarray] = {"step": np.array(3, dtype=np.int64)}
    for name, shape in shapes.items():
        state[f"first/{name}"] = scale * draw(f"first/{name}", shape)
        state[f"second/{name}"] = (scale * draw(f"second/{name}", shape)) ** 2
    adamw.load_state(state)
    given = {name: draw(f"gradient/{name}", shape) for name, shape in shapes.items()}
    norm = adamw.step({name: subject.backend.asarray(value) for name, value in given.items()})
    yield measured("adamw gradient norm", {"norm": np.array(norm)})
    after = adamw.state()
    yield measured("adamw moments", {name: after[name] for name in state})
    yield measured("adamw parameters", subject.to_host(policy.parameters()))


def scorers(subject: BackendUnderTest) -> Iterator[Measured]:
    """Features and scores of both scorers on the same images: emoji, and noise."""
    count = len(PROMPTS)
    noise = np.clip(128 + 64 * draw("pixels", (count, 32, 32, 3)), 0, 255).astype(np.uint8)
    images, prompts = np.concatenate([emoji(count), noise]), [*PROMPTS, *PROMPTS]
    for name in ("train", "heldout"):
        scorer = subject.backend.scorer(name)
        yield measured(f"{name} scorer features", {"features": scorer.features(images)})
        yield measured(f"{name} scorer scores", {"scores": scorer.score(images, prompts)})


def _processes(subject: BackendUnderTest) -> Mapping[str, Process]:
    """A process of every kernel by name; of DDIM, for both predictions of a diffusion model."""
    alpha_bars = schedules.scaled_linear_alpha_bars()
    diffusion = DiffusionSchedule(alpha_bars, steps_offset=1, final=float(alpha_bars[0]))
    ddim = settings("rollout.kernel=ddim").rollout
    flows = {name: replace(subject.process, kernel=name) for name in kernels.FLOW_KERNELS}
    predictions = {"ddim": "epsilon", "ddim of v": "v_prediction"}
    return flows | {
        name: DDIMProcess.from_config(ddim, diffusion, prediction)
        for name, prediction in predictions.items()
    }


def _levels(process: Process, asarray: Callable[[np.ndarray], Array] = np.asarray) -> Levels:
    """The levels of the B samples, float64 on the host; no kernel reads the time features."""
    table = process.table
    return Levels(None, asarray(table[STEPS]), asarray(table[STEPS + 1]))


def _flow_loss(policy: Policy) -> LossFunction:
    def loss(batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        velocity = policy.predict(batch["x"], batch["time"], Conditioning(batch["tokens"]))
        difference = velocity - batch["target"]
        return (difference * difference).mean(), {}

    return loss

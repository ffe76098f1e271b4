"""Single stages of an update, each on identical inputs: relative tolerance 1e-5."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from common.algorithm import kernels, prompt_noise
from common.backends import Array, Conditioning, LossFunction, Policy
from common.learning.update import surrogate_loss
from common.parity.bench import PROMPTS, STEPS, Bench, draw, emoji, settings
from common.parity.measure import SINGLE, Measured
from common.sampling.process import FlowProcess, Levels

LOG_RATIOS = np.array([-4e-3, 2e-4, -3e-4, 5e-3])
"""log p - log p_old of the B transitions: far enough from the clip range of +-1e-3 that rounding
cannot carry one over its edge. With ADVANTAGES the first and the last are clipped."""

ADVANTAGES = np.array([-0.5, 1.5, 1.0, 2.0])

NOISE_STRENGTH = 0.3

measured = partial(Measured, tolerance=SINGLE)


def prompt_encoder(bench: Bench) -> Iterator[Measured]:
    """`Policy.encode` of four prompts and the null prompt."""
    policy = bench.full
    with bench.backend.inference():
        tokens, null = policy.encode(PROMPTS).tokens, policy.null(2).tokens
    yield measured("prompt encoder", bench.to_host({"tokens": tokens, "null": null}))


def time_features(bench: Bench) -> Iterator[Measured]:
    """`Policy.embed_time` of every noise level of the process."""
    features = bench.full.embed_time(bench.process.sigmas)
    yield measured("time features", bench.to_host({"features": features}))


def noised_prompt(bench: Bench) -> Iterator[Measured]:
    """`prompt_noise.perturb` of the encoded prompts, in each form, at intensities 1 to 1/4."""
    tokens, asarray = bench.conditioning(bench.full).tokens, bench.backend.asarray
    draws = asarray(draw("prompt noise", tokens.shape))
    intensity = asarray(np.array([1.0, 0.75, 0.5, 0.25]))
    noised = {
        form: prompt_noise.perturb(
            tokens, draws, strength=NOISE_STRENGTH, intensity=intensity, form=form
        )
        for form in prompt_noise.FORMS
    }
    yield measured("prompt noise", bench.to_host(noised))


def layers(bench: Bench) -> Iterator[Measured]:
    """Every result that `Policy.trace` names, in order, the base model's velocity the last."""
    policy, x = bench.full, bench.backend.asarray(bench.latents)
    with bench.backend.inference():
        trace = policy.trace(x, bench.levels(policy).time, bench.conditioning(policy))
    for name, result in bench.to_host(trace).items():
        yield measured(f"model {name}", {name: result})


def adapter(bench: Bench) -> Iterator[Measured]:
    """The velocity with a low-rank adapter on, and off again under `Policy.reference`."""
    policy = bench.adapted
    yield measured("velocity, adapter on", {"velocity": bench.velocity(policy)})
    with policy.reference():
        yield measured("velocity, adapter off", {"velocity": bench.velocity(policy)})


def gradients(bench: Bench) -> Iterator[Measured]:
    """Gradient of the flow-matching loss mean (v - u)^2 for a drawn u, tensor by tensor."""
    for name, policy in (("lora", bench.adapted), ("full", bench.full)):
        inputs = {
            "x": bench.backend.asarray(bench.latents),
            "target": bench.backend.asarray(draw("target", bench.latents.shape)),
            "time": bench.levels(policy).time,
            "tokens": bench.conditioning(policy).tokens,
        }
        _, _, found = bench.backend.value_and_grad(policy, _flow_loss(policy))(inputs)
        yield measured(f"gradients, {name}", bench.to_host(found))


def transitions(bench: Bench) -> Iterator[Measured]:
    """Mean, std and log-prob of each flow kernel, from drawn velocities.

    The sample whose log-prob it is comes from the kernel in numpy float64.
    """
    x, velocity = bench.latents, draw("velocity", bench.latents.shape)
    asarray, levels = bench.backend.asarray, bench.levels(bench.full)
    for name in kernels.FLOW_KERNELS:
        process = replace(bench.process, kernel=name, guidance=1.0)
        on_host = process.transition(x.astype(np.float64), velocity, _host_levels(process))
        sample = kernels.sample(on_host, draw("transition", x.shape)).astype(np.float32)
        transition = process.transition(asarray(x), asarray(velocity), levels)
        log_prob = process.log_prob(asarray(sample), transition)
        yield measured(f"{name} mean", bench.to_host({"mean": transition.mean}))
        yield measured(f"{name} std", bench.to_host({"std": transition.std}))
        yield measured(f"{name} log-prob", bench.to_host({"log_prob": log_prob}))


def objective(bench: Bench) -> Iterator[Measured]:
    """`update.surrogate_loss`, clipped surrogate and KL to the base model, and its gradient."""
    config, policy = settings("objective.kl_weight=0.1"), bench.adapted
    asarray, levels = bench.backend.asarray, bench.levels(policy)
    x = asarray(bench.latents)
    sample, log_prob = bench.sampled
    with policy.reference():
        velocity = asarray(bench.velocity(policy))
    batch = {
        "x": x,
        "x_next": asarray(sample),
        "log_prob": asarray(log_prob - LOG_RATIOS),
        "advantage": asarray(ADVANTAGES),
        "weight": asarray(np.full(len(STEPS), 1.0 / len(STEPS))),
        "tokens": bench.conditioning(policy).tokens,
        "reference_mean": bench.process.transition(x, velocity, levels).mean,
        **levels._asdict(),
    }
    loss = surrogate_loss(policy, bench.process, config)
    value, parts, found = bench.backend.value_and_grad(policy, loss)(batch)
    yield measured("objective loss", bench.to_host({"loss": value}))
    yield measured("objective ratio", bench.to_host({"ratio": parts["ratio"]}))
    yield measured("objective KL", bench.to_host({"kl": parts["kl"]}))
    yield measured("objective gradients", bench.to_host(found))


def optimizer(bench: Bench) -> Iterator[Measured]:
    """One AdamW step whose gradient is clipped, from moments that earlier steps left."""
    config = settings("optimizer.learning_rate=0.01", "optimizer.weight_decay=0.1")
    policy = bench.backend.policy(config.model, config.adapter, seed=config.run.seed)
    shapes = {name: value.shape for name, value in bench.to_host(policy.parameters()).items()}
    adamw = bench.backend.optimizer(policy, config.optimizer)
    # The moments of a gradient that was about as large as the clipped one.
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    scale = np.float32(config.optimizer.max_grad_norm / np.sqrt(size))
    state: dict[str, np.ndarray] = {"step": np.array(3, dtype=np.int64)}
    for name, shape in shapes.items():
        state[f"first/{name}"] = scale * draw(f"first/{name}", shape)
        state[f"second/{name}"] = (scale * draw(f"second/{name}", shape)) ** 2
    adamw.load_state(state)
    given = {name: draw(f"gradient/{name}", shape) for name, shape in shapes.items()}
    norm = adamw.step({name: bench.backend.asarray(value) for name, value in given.items()})
    yield measured("adamw gradient norm", {"norm": np.array(norm)})
    after = adamw.state()
    yield measured("adamw moments", {name: after[name] for name in state})
    yield measured("adamw parameters", bench.to_host(policy.parameters()))


def scorers(bench: Bench) -> Iterator[Measured]:
    """Features and scores of both scorers on the same images: emoji, and noise."""
    count = len(PROMPTS)
    noise = np.clip(128 + 64 * draw("pixels", (count, 32, 32, 3)), 0, 255).astype(np.uint8)
    images, prompts = np.concatenate([emoji(count), noise]), [*PROMPTS, *PROMPTS]
    for name in ("train", "heldout"):
        scorer = bench.backend.scorer(name)
        yield measured(f"{name} scorer features", {"features": scorer.features(images)})
        yield measured(f"{name} scorer scores", {"scores": scorer.score(images, prompts)})


def _host_levels(process: FlowProcess) -> Levels:
    """`Bench.levels` as numpy float64, without the time features, which no kernel reads."""
    return Levels(None, process.sigmas[STEPS], process.sigmas[STEPS + 1])


def _flow_loss(policy: Policy) -> LossFunction:
    def loss(batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        velocity = policy.predict(batch["x"], batch["time"], Conditioning(batch["tokens"]))
        difference = velocity - batch["target"]
        return (difference * difference).mean(), {}

    return loss

"""The emoji model and its optimizer give the same numbers on both libraries.

PyTorch and MLX in float32 are compared with each other and with PyTorch in float64, by the norm of
the difference over the norm: every layer, every gradient, both scorers, AdamW, and a sampled image.
"""

import importlib
import json

import numpy as np
import pytest

from common import backends, random
from common.backends import Conditioning
from common.config import AdapterConfig, ModelConfig, OptimizerConfig
from common.embedded import model as shared

pytest.importorskip("torch")
pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

TOLERANCE = 1e-5
"""Relative, norm-wise: a hundred roundings of float32."""

PROMPTS = ["strawberry", "cat face", "cherry blossom"]
TIMES = np.array([1.0, 0.55, 0.05])
NAMES = json.loads((shared.FOLDER / "names.json").read_text(encoding="utf-8"))["names"]


@pytest.fixture(scope="module")
def three():
    """Float32 PyTorch, float32 MLX, and the float64 reference."""
    return {
        "torch": backends.load("cpu"),
        "mlx": backends.load("mlx"),
        "float64": backends.load("cpu", "float64"),
    }


def relative(got, expected):
    got, expected = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def draw(shape, purpose=random.Purpose.EVALUATION, **address):
    return random.normal(random.Key(7, purpose, **address), shape)


def tuned(backend, kind):
    """A policy some way into its training: no trainable array is at its start."""
    policy = backend.policy(ModelConfig(), AdapterConfig(kind=kind), seed=1)
    moved = {
        name: backend.to_numpy(value) + 0.02 * draw(value.shape, sample=i)
        for i, (name, value) in enumerate(policy.parameters().items())
    }
    policy.load_parameters(moved)
    return policy


def inputs(backend, policy):
    x = backend.asarray(draw((len(PROMPTS), *policy.latent_shape)))
    return x, policy.embed_time(TIMES), policy.encode(PROMPTS)


def agree(results):
    """Each float32 result is near the reference, and they are near each other."""
    for first, second in (("torch", "float64"), ("mlx", "float64"), ("mlx", "torch")):
        assert results[first].keys() == results[second].keys()
        for name, value in results[first].items():
            error = relative(value, results[second][name])
            assert error < TOLERANCE, f"{name}: {first} and {second} differ by {error:.1e}"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_layer(three, kind):
    results = {}
    for key, backend in three.items():
        policy = tuned(backend, kind)
        with backend.inference():
            trace = policy.trace(*inputs(backend, policy))
            velocity = policy.predict(*inputs(backend, policy))
        results[key] = {name: backend.to_numpy(value) for name, value in trace.items()}
        assert list(trace) == ["context", "time", *(f"blocks.{i}" for i in range(6)), "velocity"]
        np.testing.assert_array_equal(backend.to_numpy(velocity), results[key]["velocity"])
    agree(results)


def test_the_conditioning_is_the_same_bit_for_bit(three):
    for prompts in (PROMPTS, None):
        got = []
        for key in ("torch", "mlx"):
            policy = three[key].policy(ModelConfig(), AdapterConfig(), seed=0)
            conditioning = policy.encode(prompts) if prompts else policy.null(2)
            assert conditioning.pooled is None
            got.append(three[key].to_numpy(conditioning.tokens))
        np.testing.assert_array_equal(got[0], got[1])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_gradient(three, kind):
    results = {}
    for key, backend in three.items():
        policy = tuned(backend, kind)
        target = backend.asarray(draw((len(PROMPTS), *policy.latent_shape), prompt=1))

        def loss(x, time, tokens, target, policy=policy):
            error = policy.predict(x, time, Conditioning(tokens)) - target
            return (error * error).mean(-1).mean(), {"error": error}

        x, time, conditioning = inputs(backend, policy)
        gradient = backend.value_and_grad(policy, loss)
        value, auxiliary, gradients = gradient(x, time, conditioning.tokens, target)
        assert list(gradients) == list(policy.parameters())
        results[key] = {name: backend.to_numpy(g) for name, g in gradients.items()}
        results[key]["loss"] = backend.to_numpy(value)
        results[key]["error"] = backend.to_numpy(auxiliary["error"])
    agree(results)


def test_the_adapter_starts_from_the_same_bits_and_moves_between_backends(three):
    torch_policy = three["torch"].policy(ModelConfig(), AdapterConfig(), seed=5)
    mlx_policy = three["mlx"].policy(ModelConfig(), AdapterConfig(), seed=5)
    start = {n: three["torch"].to_numpy(v) for n, v in torch_policy.parameters().items()}
    assert start["blocks.0.qkv.lora_A.weight"].any()
    for name, value in mlx_policy.parameters().items():
        np.testing.assert_array_equal(three["mlx"].to_numpy(value), start[name])
    moved = tuned(three["mlx"], "lora").parameters()
    torch_policy.load_parameters({n: three["mlx"].to_numpy(v) for n, v in moved.items()})
    for name, value in torch_policy.parameters().items():
        np.testing.assert_array_equal(
            three["torch"].to_numpy(value), three["mlx"].to_numpy(moved[name])
        )


def gradients_of(step, shapes):
    """A stream of gradients whose scale changes, so that some steps are clipped."""
    scale = 10.0 ** (step % 5 - 3)
    return {n: scale * draw(s, sample=i, step=step) for i, (n, s) in enumerate(shapes.items())}


def test_a_hundred_steps_of_adamw_and_a_change_of_backend_half_way(three):
    settings = OptimizerConfig(weight_decay=0.01)
    adapter = AdapterConfig(rank=2, targets=("o",))
    policies = {k: b.policy(ModelConfig(), adapter, seed=1) for k, b in three.items()}
    optimizers = {k: b.optimizer(policies[k], settings) for k, b in three.items()}
    shapes = {name: tuple(v.shape) for name, v in policies["torch"].parameters().items()}
    for step in range(100):
        if step == 50:  # what was MLX goes on in PyTorch, and the other way round
            states = {k: optimizers[k].state() for k in ("torch", "mlx")}
            values = {
                k: {n: three[k].to_numpy(v) for n, v in policies[k].parameters().items()}
                for k in ("torch", "mlx")
            }
            for key, other in (("torch", "mlx"), ("mlx", "torch")):
                policies[key].load_parameters(values[other])
                optimizers[key].load_state(states[other])
        norms = {
            key: optimizers[key].step(
                {n: backend.asarray(g) for n, g in gradients_of(step, shapes).items()}
            )
            for key, backend in three.items()
        }
        assert norms["mlx"] == pytest.approx(norms["float64"], rel=1e-6)
        assert norms["torch"] == pytest.approx(norms["float64"], rel=1e-6)
    # lora_B starts at 0, so for it this is the relative error of the whole change.
    agree(
        {
            key: {n: backend.to_numpy(v) for n, v in policies[key].parameters().items()}
            for key, backend in three.items()
        }
    )
    agree({key: o.state() for key, o in optimizers.items()})
    assert optimizers["mlx"].state()["step"] == 100


def emoji(count):
    """A sample of real emoji and their names."""
    with np.load(shared.FOLDER / "emoji32.npz") as data:
        chosen = random.permutation(random.Key(0, random.Purpose.DATA), len(data["images"]))
        images, index = data["images"][chosen[:count]], data["name_index"][chosen[:count]]
    return images, [NAMES[i] for i in index]


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_scorers_agree(three, name):
    images, prompts = emoji(12)
    results = {}
    for key, backend in three.items():
        scorer = backend.scorer(name)
        score, features = scorer.score(images, prompts), scorer.features(images)
        assert (score.dtype, score.shape) == (np.float64, (12,))
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, rtol=1e-6)
        results[key] = {"score": score, "features": features}
    agree(results)


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_scorers_distinguish_real_emoji(three, name):
    images, prompts = emoji(24)  # so chance is 1 in 24
    score = three["torch"].scorer(name).score(np.repeat(images, 24, axis=0), prompts * 24)
    best = [prompts[column] for column in score.reshape(24, 24).argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(best, prompts, strict=True)]) > 0.75


def test_twenty_euler_steps_draw_the_same_strawberries(three):
    count, steps, pictures = 3, 20, {}
    for key in ("torch", "mlx"):
        backend = three[key]
        policy = backend.policy(ModelConfig(), AdapterConfig(), seed=0)
        conditioning = policy.encode(["strawberry"] * count)
        x = backend.asarray(draw((count, *policy.latent_shape)))
        with backend.inference():
            for step in range(steps):
                time = policy.embed_time(np.full(count, 1 - step / steps))
                x = x - policy.predict(x, time, conditioning) * (1 / steps)
                backend.evaluate(x)
        pictures[key] = policy.decode(x)
    different = pictures["torch"].astype(int) - pictures["mlx"]
    assert np.abs(different).max() <= 1  # a value near the middle of two levels may round apart
    assert (different != 0).mean() < 1e-3
    score = three["torch"].scorer("heldout").score(pictures["mlx"], ["strawberry"] * count)
    assert score.mean() > 0.5


@pytest.mark.parametrize("file", ["backend", "embedded", "lora"])
def test_twins_have_the_same_public_names(file):
    of_one_alone = {"cpu", "cuda", "mlx", "MixedLoRALinear"}  # the last: for diffusers' models
    public = [
        set(importlib.import_module(f"{package}.{file}").__all__) - of_one_alone
        for package in ("drift_torch", "drift_mlx")
    ]
    assert public[0] == public[1]
    assert public[0]

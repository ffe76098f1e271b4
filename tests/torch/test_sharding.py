"""Frozen weights in slices: half of them in each of two processes, and the same gradients.

Whole runs are in `tests/training/test_sharded_training.py`.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common import backends
from common.config import AdapterConfig, ModelConfig
from drift_torch import lora, sharding
from drift_torch.diffusion import DiffusersPolicy
from tests.torch.gloo import together

WIDTH = 16
ADAPTER = AdapterConfig(rank=2, targets=("inner",))


class Layer(nn.Module):
    """A residual layer, whose input is used twice inside of it."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.outer(torch.tanh(self.inner(x)))


class Network(nn.Module):
    """Three layers between two projections; the same for everybody."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        lora.attach(self, ADAPTER, seed=0, linear=lora.MixedLoRALinear)
        with torch.no_grad():
            for name, parameter in lora.trainable(self).items():
                if "lora_B" in name:
                    parameter.normal_()

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def gradients(backend, network):
    """Of a loss with two forward passes and one without gradient, twice added up, by name."""

    def loss(x):
        with torch.no_grad():
            constant = network(x)
        return (network(x) * (network(2 * x) - constant)).square().mean(), {}

    run = backend.value_and_grad(SimpleNamespace(module=network), loss)
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    _, _, once = run(x)
    _, _, twice = run(x + 1, onto=once)
    return {name: value.numpy() for name, value in twice.items()}


def stored(network):
    """Bytes of the parameters that are here, those that are trained and the frozen ones."""
    here = {True: 0, False: 0}
    for parameter in network.parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        here[parameter.requires_grad] += local.untyped_storage().nbytes()
    return here[True], here[False]


def whole_and_in_slices(backend):
    network = Network()
    whole = stored(network), gradients(backend, network)
    sharding.shard(network, network.layers, backend.world, backend.device)
    before = stored(network)
    results = gradients(backend, network)
    assert stored(network) == before  # what was gathered is freed
    return *whole, before, results


def test_each_keeps_a_slice_and_the_gradients_have_the_same_bytes():
    for whole, expected, here, results in together(2, whole_and_in_slices):
        assert results.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(results[name], value, err_msg=name)
        assert here[0] == whole[0]
        # The last projection has 3 rows, which are padded to 4.
        assert here[1] == (whole[1] + 4 * (WIDTH + 1)) // 2


def half(backend):
    """The backward passes of a loss whose first scale is too large for process 1, and the result.

    Once alone and once in slices.
    """
    network, results = Network(), []
    policy = SimpleNamespace(module=network, dtype=torch.float16)
    size = 1e34 if backend.world.rank else 1.0

    def loss(x):
        value = network(x).square().mean() * size
        value.register_hook(lambda gradient: results[-1].append(float(gradient)))
        return value, {}

    run = backend.value_and_grad(policy, loss)
    for sliced in (False, True):
        if sliced:
            sharding.shard(network, network.layers, backend.world, backend.device)
            backend.world.lockstep = True
        results.append([])
        _, _, gradients = run(torch.linspace(-1, 1, 12).reshape(4, 3))
        results.append({name: value.numpy() for name, value in gradients.items()})
    return results


def test_one_that_has_its_loss_scale_goes_on_for_the_others():
    (first, alone, both, same), (second, *others) = together(2, half)
    assert len(second) > len(first) == 1
    assert both == second == others[1]
    for mine, again in ((alone, same), (others[0], others[2])):
        for name, value in mine.items():
            assert np.isfinite(value).all()
            np.testing.assert_array_equal(again[name], value, err_msg=name)


def one_fails(backend):
    network, world = Network(), backend.world
    sharding.shard(network, network.layers, world, backend.device)
    world.lockstep = True

    def work():
        if world.rank == 1:
            raise MemoryError("no room")
        return gradients(backend, network)["layers.0.inner.lora_A.weight"]

    world.share(work, "the update", passes=True)


def test_one_that_fails_in_a_forward_pass_ends_the_others():
    first, second = together(2, one_fails)
    assert second == "MemoryError: no room"
    assert first.startswith("PeerError: process 0 of 2 lost the others at the update: ")


class Broken(DiffusersPolicy):
    """A model whose files are damaged for one process."""

    def __init__(self, *_, **__):
        if torch.distributed.get_rank() == 1:
            raise ValueError("model.path = 'somewhere': no weights")

    _encode = _forward = _native_resolution = _readers = embed_time = lambda self: None


def one_has_no_model(backend):
    model = ModelConfig(family="sd3", path="somewhere", shard="fsdp")
    sharding.policy(Broken, model, ADAPTER, seed=0, device=backend.device, world=backend.world)


def test_one_that_has_no_model_ends_all():
    first, second = together(2, one_has_no_model)
    assert second == "ValueError: model.path = 'somewhere': no weights"
    assert first == (
        "PeerError: process 1 of 2 failed at loading the model: ValueError: model.path = "
        "'somewhere': no weights"
    )


class Elsewhere:
    """A model of the user that loads its weights in a way of its own."""


def test_what_cannot_be_in_slices_is_said(monkeypatch):
    asked = {}

    class Derived(DiffusersPolicy):
        def __init__(self, model, adapter, **_):
            asked["shard"] = model.shard

        _encode = _forward = _native_resolution = _readers = embed_time = lambda self: None

    cpu = torch.device("cpu")
    where = {"seed": 0, "device": cpu, "world": backends.Alone()}
    model = ModelConfig(family="sd3", path="somewhere", shard="fsdp")
    with pytest.raises(ValueError, match="is for classes derived from DiffusersPolicy, which"):
        sharding.policy(Elsewhere, model, ADAPTER, **where)
    sharding.policy(Derived, model, ADAPTER, **where)
    assert asked["shard"] == "none"
    # On a CPU, where all processes share one memory, auto keeps the whole.
    several = SimpleNamespace(size=2)
    auto = model.model_copy(update={"shard": "auto"})
    sharding.policy(Derived, auto, ADAPTER, seed=0, device=cpu, world=several)
    assert asked["shard"] == "none"

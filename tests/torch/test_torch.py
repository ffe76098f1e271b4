"""What only PyTorch can show: PEFT and torch's own AdamW as references, float64, repeatability."""

import json
import os

import numpy as np
import pytest

from common import backends
from common.adapters import low_rank
from common.backends import BackendUnavailableError, Conditioning
from common.config import AdapterConfig, ModelConfig, OptimizerConfig
from common.embedded import model as shared

torch = pytest.importorskip("torch")

from drift_torch import backend as drift, lora  # noqa: E402
from drift_torch.embedded import Denoiser  # noqa: E402

SMALL = AdapterConfig(rank=3, alpha=5.0, targets=("qkv", "m2"))


def tuned(backend, settings, seed=0):
    policy = backend.policy(ModelConfig(), settings, seed=seed)
    rng = np.random.default_rng(seed)
    policy.load_parameters(
        {
            name: backend.to_numpy(value) + 0.05 * rng.standard_normal(tuple(value.shape))
            for name, value in policy.parameters().items()
        }
    )
    return policy


def batch(policy, backend):
    rng = np.random.default_rng(1)
    x = backend.asarray(rng.standard_normal((2, *policy.latent_shape)))
    return x, policy.embed_time(np.array([0.8, 0.3])), policy.encode(["owl", "cat face"])


def test_peft_loads_the_adapter_and_predicts_the_same(tmp_path):
    peft = pytest.importorskip("peft")
    from safetensors.torch import save_file

    backend = backends.load("cpu")
    policy = tuned(backend, SMALL)
    tensors = {n: v.numpy() for n, v in policy.parameters().items()}
    save_file(
        {n: torch.from_numpy(v) for n, v in low_rank.to_peft(tensors).items()},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(low_rank.peft_config(SMALL)))
    base = Denoiser(shared.DenoiserConfig())
    base.load_state_dict({n: torch.from_numpy(w) for n, w in shared.denoiser_weights().items()})
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path))
    x, time, conditioning = batch(policy, backend)
    with backend.inference():
        ours = policy.predict(x, time, conditioning)
        theirs = loaded(x, time, conditioning.tokens)
        with policy.reference():
            before = policy.predict(x, time, conditioning)
    assert float((ours - before).norm() / before.norm()) > 0.01
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6


def test_the_optimizer_is_torch_adamw_after_clip_grad_norm():
    backend = backends.load("cpu", "float64")
    settings = OptimizerConfig(
        learning_rate=0.02, beta1=0.8, beta2=0.97, eps=1e-3, weight_decay=0.3
    )
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    ours = backend.optimizer(policy, settings)
    theirs = {n: v.clone().requires_grad_(True) for n, v in policy.parameters().items()}
    reference = torch.optim.AdamW(
        theirs.values(), lr=0.02, betas=(0.8, 0.97), eps=1e-3, weight_decay=0.3
    )
    for step in range(8):
        torch.manual_seed(step)
        gradients = {n: torch.randn_like(v) * 10.0 ** -(step % 4) for n, v in theirs.items()}
        norm = ours.step(gradients)
        for name, value in theirs.items():
            value.grad = gradients[name].clone()
        expected = torch.nn.utils.clip_grad_norm_(theirs.values(), settings.max_grad_norm)
        reference.step()
        assert norm == pytest.approx(float(expected), rel=1e-12)
    for name, value in policy.parameters().items():
        torch.testing.assert_close(value, theirs[name].detach(), rtol=1e-12, atol=1e-14)


def test_float64_is_float64_everywhere():
    backend = backends.load("cpu", "float64")
    policy = tuned(backend, SMALL)
    with backend.inference():
        trace = policy.trace(*batch(policy, backend))
    assert {value.dtype for value in trace.values()} == {torch.float64}
    assert {value.dtype for value in policy.parameters().values()} == {torch.float64}
    assert backend.to_numpy(trace["velocity"]).dtype == np.float64


def test_the_same_work_gives_the_same_bits():
    def run():
        backend = backends.load("cpu")
        policy = tuned(backend, AdapterConfig(kind="full"))
        optimizer = backend.optimizer(policy, OptimizerConfig())
        x, time, conditioning = batch(policy, backend)

        def loss(x):
            return policy.predict(x, time, Conditioning(conditioning.tokens)).square().mean(), {}

        for _ in range(2):
            optimizer.step(backend.value_and_grad(policy, loss)(x)[2])
        return policy.parameters()

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_leave_no_trace_on_the_parameters():
    backend = backends.load("cpu")
    policy = tuned(backend, SMALL)
    x, time, conditioning = batch(policy, backend)
    gradient = backend.value_and_grad(
        policy, lambda x: (policy.predict(x, time, conditioning).mean(), {})
    )
    with backend.inference():  # even where nothing else is recorded
        value, _, gradients = gradient(x)
    assert not value.requires_grad
    assert any(bool(g.any()) for g in gradients.values())
    assert all(p.grad is None for p in policy.module.parameters())


def test_bfloat16_comes_back_as_float32():
    backend = backends.load("cpu")
    back = backend.to_numpy(torch.tensor([1.5, -0.25], dtype=torch.bfloat16))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, [1.5, -0.25])


@pytest.mark.parametrize(
    ("built", "message"), [(None, "built without CUDA"), ("12.8", "CUDA 12.8 but finds no usable")]
)
def test_no_gpu_says_why(monkeypatch, built, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(BackendUnavailableError, match=message):
        drift.cuda()


def test_a_wrong_dtype_or_a_foreign_policy_is_refused():
    with pytest.raises(ValueError, match="'float16' of backend cpu; valid: float32, float64"):
        drift.cpu("float16")
    with pytest.raises(TypeError, match="object is not a policy of the PyTorch backend"):
        drift.cpu().optimizer(object(), OptimizerConfig())


def test_few_threads_are_pointed_out(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # of which this process may use 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ["2 of 16 cores" in line for line in drift.cpu().advice()] == [True]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert drift.cpu().advice() == []


def test_a_linear_without_bias_takes_an_adapter():
    base = torch.nn.Linear(4, 3, bias=False)
    layer = lora.LoRALinear(base, 2, 6.0)
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    low_rank = layer.lora_B.weight @ layer.lora_A.weight
    torch.testing.assert_close(layer(x), x @ (base.weight + 3.0 * low_rank).T)
    layer.enabled = False
    torch.testing.assert_close(layer(x), x @ base.weight.T)


@pytest.mark.gpu
def test_cuda_agrees_with_float64():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    results = {}
    for name, dtype in (("cuda", "float32"), ("cpu", "float64")):
        backend = backends.load(name, dtype)
        policy = tuned(backend, SMALL)
        x, time, conditioning = batch(policy, backend)

        def loss(x, policy=policy, time=time, conditioning=conditioning):
            velocity = policy.predict(x, time, conditioning)
            return velocity.square().mean(), {"velocity": velocity}

        _, auxiliary, gradients = backend.value_and_grad(policy, loss)(x)
        results[name] = {n: backend.to_numpy(v) for n, v in (auxiliary | gradients).items()}
    for name, value in results["cuda"].items():
        expected = results["cpu"][name]
        assert np.linalg.norm(value - expected) < 1e-5 * np.linalg.norm(expected), name

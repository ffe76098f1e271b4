"""What only MLX needs: its own GELU, no PyTorch, no TF32, OpenBLAS first on Linux, no float64."""

import ctypes
import os
import re
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

import drift_mlx  # before MLX: it loads OpenBLAS
from common import backends
from common.backends import BackendUnavailableError
from common.config import AdapterConfig, ModelConfig, OptimizerConfig

drift = pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

import mlx.core as mx  # noqa: E402
from mlx import nn  # noqa: E402

from drift_mlx import lora  # noqa: E402
from drift_mlx.networks import layers  # noqa: E402

U = np.concatenate([np.linspace(-12, 12, 4801), [-1e4, 1e4, 1e-4, 0.0]])


def test_tanh_of_products_is_tanh():
    a, b = layers._tanh_parts(mx.array(U))
    got = np.array(2 * a * b / (a * a + b * b), dtype=np.float64)
    expected = np.tanh(U.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=5e-7, atol=2e-7)


def test_gelu_and_its_slope_are_those_of_the_formula():
    x = U.astype(np.float32).astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    t = np.tanh(inner)
    slope = (1 + t) / 2 + x / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    device = mx.array(x.astype(np.float32))
    weight = mx.array(np.linspace(-1, 1, len(x), dtype=np.float32))
    got = mx.grad(lambda x: (weight * layers._gelu_cpu(x)).sum())(device)
    error = np.array(layers._gelu_cpu(device)) - x / 2 * (1 + t)
    # The tail is a difference from 1, so it has the absolute error of a float32 near x.
    assert np.abs(error / np.maximum(1, np.abs(x))).max() < 3e-7
    np.testing.assert_allclose(np.array(got), np.array(weight) * slope, rtol=1e-5, atol=2e-6)


def test_gelu_is_a_constant_to_nothing_else():
    x = mx.array([0.3, -2.0])
    mixed = mx.grad(lambda x: (layers.gelu(x * x) * x).sum())(x)
    value, step = np.array([0.3, -2.0]), 1e-5

    def f(x):
        return 0.5 * x**2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x**2 + 0.044715 * x**6))) * x

    np.testing.assert_allclose(
        np.array(mixed), (f(value + step) - f(value - step)) / 2 / step, 1e-5
    )


def test_a_run_on_mlx_loads_no_torch_and_no_transformers():
    code = """
import sys
from common import backends
from common.config import AdapterConfig, ModelConfig, OptimizerConfig
backend = backends.load("mlx")
policy = backend.policy(ModelConfig(), AdapterConfig(), seed=0)
backend.optimizer(policy, OptimizerConfig())
backend.scorer("train")
print([name for name in ("torch", "drift_torch", "transformers", "mlx_lm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("asked", "used"), [(None, "0"), ("1", "1")])
def test_tf32_is_off_unless_asked_for(asked, used):
    code = """
import os, sys
import drift_mlx
assert "mlx.core" not in sys.modules
print(os.environ["MLX_ENABLE_TF32"])
import drift_mlx.backend
print(drift_mlx.backend.mlx().describe()["tf32"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "MLX_ENABLE_TF32"}
    environment |= {} if asked is None else {"MLX_ENABLE_TF32": asked}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [used, used]


def test_float64_and_other_types_are_refused():
    with pytest.raises(BackendUnavailableError, match="the float64 reference is backend cpu"):
        drift.mlx("float64")
    with pytest.raises(ValueError, match="'float16' of backend mlx; valid: float32"):
        drift.mlx("float16")
    with pytest.raises(TypeError, match="object is not a policy of the MLX backend"):
        drift.mlx().optimizer(object(), OptimizerConfig())


def test_bfloat16_comes_back_as_float32():
    back = drift.mlx().to_numpy(mx.array([1.5, -0.25], dtype=mx.bfloat16))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, [1.5, -0.25])


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_gradient_the_policy_holds_its_own_arrays_again(fails):
    backend = backends.load("mlx")
    policy = backend.policy(ModelConfig(), AdapterConfig(rank=2, targets=("o",)), seed=0)
    held = policy.parameters()

    def loss(x):
        if fails:
            raise RuntimeError("no loss")
        return policy.module.blocks[0].o(x).sum(), {}

    gradient = backend.value_and_grad(policy, loss)
    with pytest.raises(RuntimeError, match="no loss") if fails else nullcontext():
        gradient(mx.ones((1, 128)))
    assert all(array is held[name] for name, array in policy.parameters().items())


def test_a_linear_without_bias_takes_an_adapter():
    base = nn.Linear(4, 3, bias=False)
    layer = lora.LoRALinear(base, 2, 6.0)
    x = mx.linspace(-1, 1, 8).reshape(2, 4)
    low_rank = layer.lora_B.weight @ layer.lora_A.weight
    assert mx.allclose(layer(x), x @ (base.weight + 3.0 * low_rank).T, rtol=1e-5)
    layer.enabled = False
    assert mx.allclose(layer(x), x @ base.weight.T, rtol=1e-5)


@pytest.mark.parametrize(
    ("system", "loaded", "installed", "advised"),
    [
        ("Linux", True, True, "CPU, with OpenBLAS; PyTorch, --backend cpu, was measured 2.7 times"),
        ("Linux", False, True, "25 times slower than OpenBLAS, which is installed, but .* LD_PRE"),
        ("Linux", False, False, "25 times slower than OpenBLAS, which is not .* libopenblas0-p"),
        ("Darwin", False, False, "CPU: --backend cpu, PyTorch, may be faster"),
    ],
)
def test_on_a_cpu_one_line_says_that_it_is_slow(monkeypatch, system, loaded, installed, advised):
    def load(name):
        assert name == drift_mlx.OPENBLAS
        if not installed:
            raise OSError(name)

    backend = drift.Backend("mlx", mx.Device(mx.cpu), "float32")
    monkeypatch.setattr(drift.platform, "system", lambda: system)
    monkeypatch.setattr(drift, "_openblas_loaded", lambda: loaded)
    monkeypatch.setattr(drift.ctypes, "CDLL", load)
    (line,) = backend.advice()
    assert line.startswith("MLX finds neither Metal nor CUDA: it computes on the CPU")
    assert re.search(advised, line)
    slow = "reference BLAS, about 25 times slower than OpenBLAS"
    known = "Accelerate" if system == "Darwin" else "OpenBLAS" if loaded else slow
    assert backend.describe()["blas"] == known


def test_on_a_gpu_there_is_nothing_to_advise():
    backend = drift.Backend("mlx", mx.Device(mx.gpu), "float32")
    assert backend.advice() == []
    assert "blas" not in backend.describe()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's MLX needs OpenBLAS")
def test_openblas_is_loaded_where_it_is_installed():
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        pytest.skip("libopenblas.so.0 is not installed")
    code = 'import drift_mlx.backend; print(drift_mlx.backend.mlx().describe()["blas"])'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OpenBLAS"

"""The host side of LoRA: initial values, PEFT's names and PEFT's configuration file.

A linear y = W x + b gets y + (alpha / r) B A x, with A [r, in] and B [out, r] (Hu et al. 2021,
"LoRA", section 4.1, arXiv:2106.09685). B starts at 0, so the adapted model starts as the base.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from common.config import AdapterConfig
from common.random import Key, Purpose, address, normal, uniform

_A, _B = ".lora_A.weight", ".lora_B.weight"

PEFT_PREFIX = "base_model.model."
"""The prefix of every name in PEFT's `adapter_model.safetensors`."""


def targets(linears: Iterable[str], config: AdapterConfig) -> list[str]:
    """Names of the linears to adapt, sorted: those that are or end in one of `config.targets`.

    As in PEFT, "attn.to_q" is the end of "blocks.0.attn.to_q", not of "blocks.0.attn2.to_q".
    Raises ValueError naming a target that matches nothing, and the valid ones.
    """
    names = sorted(linears)
    for target in config.targets:
        if not any(_ends(name, target) for name in names):
            valid = sorted({_last(name) for name in names})
            raise ValueError(
                f"adapter.targets: no linear is called '{target}'; valid: {', '.join(valid)}"
            )
    return [name for name in names if any(_ends(name, target) for target in config.targets)]


def _last(name: str) -> str:
    """The last part of a module's name, with the one before it where it is only a number."""
    *_, before, last = f".{name}".split(".")
    return f"{before}.{last}" if last.isdecimal() and before else last


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def initial(
    shapes: Mapping[str, tuple[int, int]], config: AdapterConfig, seed: int
) -> dict[str, np.ndarray]:
    """Initial A and B of every adapted linear: float32, as PEFT initialises them.

    shapes: (out, in) of each linear's weight, by module name. A is U(-1/sqrt(in), 1/sqrt(in)) for
    `kaiming` (torch's kaiming_uniform_ with a = sqrt(5)) or N(0, 1/r^2) for `gaussian`; B is 0.
    A module's draw depends on its name and the seed only, not on what else is adapted.
    """
    values: dict[str, np.ndarray] = {}
    for name, (out, width) in shapes.items():
        shape = (config.rank, width)
        key = Key(seed=seed, purpose=Purpose.ADAPTER, prompt=address(name))
        if config.init == "kaiming":
            a = (2.0 * uniform(key, shape) - 1.0) / np.sqrt(width)
        else:
            a = normal(key, shape) / config.rank
        values[name + _A] = a.astype(np.float32)
        values[name + _B] = np.zeros((out, config.rank), dtype=np.float32)
    return values


def scaled(
    tuned: Mapping[str, np.ndarray],
    base: Mapping[str, np.ndarray],
    config: AdapterConfig,
    scale: float,
) -> dict[str, np.ndarray]:
    """Trained parameters moved towards the base model's: 0 is the base, 1 as trained.

    A low-rank adapter has its B multiplied, so that W + s (alpha / r) B A; all weights are
    interpolated, (1 - s) base + s tuned, which is the same path. Beyond 1 both extrapolate.

    Args:
        tuned: parameters by name, float32.
        base: those before training, under the same names; not read for a low-rank adapter.
        config: what kind of parameters they are.
        scale: s.

    Returns:
        Arrays of the same names, shapes and dtypes; those of `tuned` bit for bit at s = 1.
    """
    if scale == 1.0:
        return dict(tuned)
    if config.kind == "lora":
        return {
            name: value * value.dtype.type(scale) if name.endswith(_B) else value
            for name, value in tuned.items()
        }
    return {
        name: value.dtype.type(1.0 - scale) * base[name] + value.dtype.type(scale) * value
        for name, value in tuned.items()
    }


def pairs(parameters: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A [r, in] and B [out, r] of each adapted linear, by the linear's name."""
    return {
        name.removesuffix(_A): (a, parameters[name.removesuffix(_A) + _B])
        for name, a in parameters.items()
        if name.endswith(_A)
    }


def to_peft(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A policy's adapter under the names of PEFT's `adapter_model.safetensors`."""
    return {PEFT_PREFIX + name: value for name, value in parameters.items()}


def from_peft(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `to_peft`; names without the prefix are not changed."""
    return {name.removeprefix(PEFT_PREFIX): value for name, value in tensors.items()}


def peft_config(config: AdapterConfig, base_model: str | None = None) -> dict[str, Any]:
    """The content of PEFT's `adapter_config.json` for a LoRA adapter."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True if config.init == "kaiming" else "gaussian",
        "target_modules": sorted(config.targets),
    }

"""The files that other programs load: their names of modules, and the strength within the tensors.

Every B is multiplied by alpha / rank, and alpha is then the rank: a program that reads no alpha, or
uses the rank for it, applies the strength of the training. For PEFT, which always reads alpha, the
arrays are those of the training.
"""

import json
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from common.adapters.low_rank import pairs, peft_config, to_peft
from common.adapters.original_names import Place, place
from common.choices import Program
from common.config import AdapterConfig
from common.errors import RequestError

__all__ = ["COMPONENTS", "FOLDERS", "check", "encode", "file_name"]

COMPONENTS = {"sd15": "unet", "sd3": "transformer", "flux": "transformer"}
"""The tuned part of a pipeline of each family, as diffusers calls it."""

FOLDERS: tuple[Program, ...] = ("diffusers", "peft")
"""Programs that load a folder; the others load a file, which may lie among others."""

SETTINGS = ("r", "lora_alpha", "target_modules")
"""Settings that PEFT reads from the header."""

_IN_KOHYA = {
    "sd15": ("down_blocks.", "mid_block.", "up_blocks."),
    "sd3": ("",),
    "flux": (
        *("double_blocks.", "single_blocks.", "img_in", "txt_in"),
        *("time_in.", "vector_in.", "guidance_in."),
    ),
}
"""Beginnings of the modules that sd-scripts adapts; it ignores others without a word."""

_IN_MFLUX = ("transformer_blocks.", "single_transformer_blocks.")
"""Beginnings of the modules that mflux applies an adapter to; it leaves others out."""


def check(program: Program, family: str) -> None:
    """Raise RequestError where the program knows no model of that family."""
    if program == "mlx" and family != "flux":
        raise RequestError(
            f"no program on MLX loads an adapter of model.family = '{family}'; "
            "`drift sample` draws with it, on MLX too"
        )


def file_name(program: Program, run: str, update: int) -> str:
    """The name of the file: the one that the program looks for, else one that says what it is."""
    if program == "diffusers":
        return "pytorch_lora_weights.safetensors"
    if program == "peft":
        return "adapter_model.safetensors"
    return f"{run}-{update:06d}.safetensors"


def encode(
    parameters: Mapping[str, np.ndarray], config: AdapterConfig, *, family: str, program: Program
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and header of the file.

    Args:
        parameters: an adapter's A and B by name, as `Policy.parameters` names them.
        config: the adapter's settings.
        family: of the model; one of COMPONENTS.
        program: that will load the file.

    Raises:
        RequestError: the program cannot apply the adapter of one of the modules.
    """
    if program == "peft":
        return to_peft(parameters), {"format": "pt"}
    scale = config.alpha / config.rank
    adapters = {name: (a, b * b.dtype.type(scale)) for name, (a, b) in pairs(parameters).items()}
    if program == "mlx":
        for name in adapters:
            if not name.startswith(_IN_MFLUX):
                raise RequestError(_ignored("mflux", name))
    if program in ("diffusers", "mlx"):
        return _diffusers(adapters, config, COMPONENTS[family])
    return _kohya(adapters, family, program)


_Adapters = Mapping[str, tuple[np.ndarray, np.ndarray]]


def _diffusers(
    adapters: _Adapters, config: AdapterConfig, component: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    settings = peft_config(config) | {"lora_alpha": config.rank}
    header = {f"{component}.{key}": settings[key] for key in SETTINGS}
    arrays = {}
    for name, (a, b) in adapters.items():
        arrays[f"{component}.{name}.lora_A.weight"] = a
        arrays[f"{component}.{name}.lora_B.weight"] = b
    return arrays, {"format": "pt", "lora_adapter_metadata": json.dumps(header, sort_keys=True)}


def _kohya(
    adapters: _Adapters, family: str, program: Program
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Names as `lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`, with its alpha."""
    modules: dict[str, list[tuple[Place, np.ndarray, np.ndarray]]] = defaultdict(list)
    for name, (a, b) in adapters.items():
        where = place(family, name, (b.shape[0], a.shape[1]))
        if where is None or (program == "kohya" and not where.name.startswith(_IN_KOHYA[family])):
            raise RequestError(_ignored(program, name))
        modules[where.name].append((where, a, b))
    arrays, ranks = {}, set()
    for name, parts in modules.items():
        down, up = _joined(parts)
        module = f"lora_unet_{name.replace('.', '_')}"
        arrays[f"{module}.lora_down.weight"] = down
        arrays[f"{module}.lora_up.weight"] = up
        arrays[f"{module}.alpha"] = np.array(len(down), dtype=down.dtype)
        ranks.add(len(down))
    rank = str(max(ranks))
    about = {"ss_network_module": "networks.lora", "ss_network_dim": rank}
    return arrays, {"format": "pt", **about, "ss_network_alpha": rank}


def _ignored(program: str, name: str) -> str:
    return (
        f"{program} reads no adapter of '{name}', which adapter.targets names: "
        "export it for diffusers"
    )


def _joined(parts: list[tuple[Place, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """A [R, in] and B [out, R] of a module of which the parts are the adapted rows.

    The A of the parts are one below the other; B has theirs as blocks, and zeros elsewhere.
    """
    parts = sorted(parts, key=lambda part: part[0].part)
    where, a, b = parts[0]
    if not where.sizes:
        return a, np.concatenate(np.split(b, 2)[::-1]) if where.swapped else b
    down = np.concatenate([part_a for _, part_a, _ in parts])
    ends = np.cumsum(where.sizes) * a.shape[1]
    up = np.zeros((ends[-1], len(down)), dtype=b.dtype)
    column = 0
    for own, part_a, part_b in parts:
        rows = slice(ends[own.part] - len(part_b), ends[own.part])
        up[rows, column : column + len(part_a)] = part_b
        column += len(part_a)
    return down, up

"""The file that diffusers' `load_lora_weights` reads: names, and settings in its header."""

import json
from collections.abc import Mapping

import numpy as np

from common.adapters.low_rank import peft_config
from common.config import AdapterConfig

FILE = "pytorch_lora_weights.safetensors"
"""The file that diffusers looks for in a folder."""

COMPONENTS = {"sd15": "unet", "sd3": "transformer", "flux": "transformer"}
"""The tuned part of a pipeline of each family, as diffusers calls it."""

SETTINGS = ("r", "lora_alpha", "target_modules")
"""Settings that PEFT needs; without alpha a loader would use the rank as alpha."""


def encode(
    parameters: Mapping[str, np.ndarray], config: AdapterConfig, component: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and header of the file.

    Args:
        parameters: an adapter's A and B by name, as `Policy.parameters` names them.
        config: the adapter's settings.
        component: "unet" or "transformer".
    """
    settings = peft_config(config)
    header = {f"{component}.{key}": settings[key] for key in SETTINGS}
    arrays = {f"{component}.{name}": value for name, value in parameters.items()}
    return arrays, {"format": "pt", "lora_adapter_metadata": json.dumps(header, sort_keys=True)}

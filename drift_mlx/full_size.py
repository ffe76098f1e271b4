"""Policies of published models with drawn weights: to estimate and to time, without a download."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from common import published
from common.config import AdapterConfig, ModelConfig
from drift_mlx import loading
from drift_mlx.diffusion import DiffusersPolicy
from drift_mlx.flux import FluxPolicy
from drift_mlx.networks.flux import Flux, FluxConfig
from drift_mlx.networks.mmdit import MMDiT, MMDiTConfig
from drift_mlx.networks.text import CLIPText, CLIPTextConfig, T5Config, T5Encoder
from drift_mlx.networks.unet import UNet, UNetConfig
from drift_mlx.networks.vae import Decoder, VAEConfig
from drift_mlx.sd3 import SD3Policy
from drift_mlx.sd15 import SD15Policy

__all__ = ["policy"]

POLICIES = {"sd15": SD15Policy, "sd3": SD3Policy, "flux": FluxPolicy}
NETWORKS = {"sd15": (UNet, UNetConfig), "sd3": (MMDiT, MMDiTConfig), "flux": (Flux, FluxConfig)}


def policy(model: ModelConfig, adapter: AdapterConfig) -> DiffusersPolicy:
    """The policy of `model.family` with weights that are drawn when they are first used.

    Nothing is read from `model.path`; of FLUX.1, it tells schnell from dev. What a prompt says is
    of no matter: its letters are its tokens.
    """
    documents = published.documents(model.family, model.path)

    class Drawn(POLICIES[model.family]):  # type: ignore[misc]
        def _open(self) -> Any:
            return _Drawn(model.family, documents)

    return Drawn(model, adapter, seed=0)


class _Drawn(loading.Folder):
    """A pipeline that is on no disk: its documents are given, and its weights are drawn."""

    def __init__(self, family: str, documents: published.Documents):
        self.name = self._where = "drawn weights"
        self._family = family
        self.index = {component: ["drawn", ""] for component in documents}
        self._documents = documents

    def kind(self, component: str) -> str:
        return self._documents[component]["architectures"][0]

    def document(self, component: str, file: str = "config.json") -> dict[str, Any]:
        return dict(self._documents[component])

    def origin(self, component: str) -> str:
        return f"{self._where}: {component}"

    def tokenizer(self, component: str) -> Any:
        encoder = component.replace("tokenizer", "text_encoder")
        return _Letters(self._documents[encoder]["vocab_size"])

    def weights(self, component: str) -> dict[str, mx.array]:
        network, sizes = NETWORKS[self._family]
        flat = loading.flat(network(self.settings(component, sizes)))
        drawn = {name: 0.02 * mx.random.normal(array.shape) for name, array in flat.items()}
        return {n: w.transpose(0, 3, 1, 2) if w.ndim == 4 else w for n, w in drawn.items()}

    def text_encoder(self, component: str, dtype: mx.Dtype, bits: int = 0) -> CLIPText | T5Encoder:
        kind = self.kind(component)
        if kind == "T5EncoderModel":
            module = T5Encoder(self.settings(component, T5Config))
        else:
            config = self.settings(component, CLIPTextConfig)
            module = CLIPText(config, projected=kind.endswith("WithProjection"))
        module.update(tree_map(lambda array: array.astype(dtype), module.parameters()))
        if isinstance(module, T5Encoder):
            loading.quantized(module, bits)
        return module

    def vae(self) -> tuple[Decoder, VAEConfig]:
        config = self.settings("vae", VAEConfig)
        return Decoder(config), config


class _Letters:
    """A tokenizer to which each letter is a token; the last of its vocabulary ends a text."""

    model_max_length = 77

    def __init__(self, vocabulary: int):
        self._end = vocabulary - 1

    def __call__(self, prompts: list[str], *, max_length: int = 0, **_: Any) -> SimpleNamespace:
        texts = [[ord(letter) % self._end for letter in prompt] for prompt in prompts]
        if not max_length:
            return SimpleNamespace(input_ids=[[*text, self._end] for text in texts])
        cut = [text[: max_length - 1] for text in texts]
        padded = [text + [self._end] * (max_length - len(text)) for text in cut]
        return SimpleNamespace(input_ids=padded)

"""Policies of published models with drawn weights: to estimate and to time, without a download."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx import nn

from common.config import AdapterConfig, ModelConfig
from common.pipelines import architectures
from common.pipelines.architectures import Size
from drift_mlx import loading
from drift_mlx.diffusion import DiffusersPolicy
from drift_mlx.flux import FluxPolicy
from drift_mlx.networks.flux import Flux, FluxConfig
from drift_mlx.networks.mmdit import MMDiT, MMDiTConfig
from drift_mlx.networks.unet import UNet, UNetConfig
from drift_mlx.networks.vae import Decoder, VAEConfig
from drift_mlx.sd3 import SD3Policy
from drift_mlx.sd15 import SD15Policy

__all__ = ["policy"]

POLICIES: dict[str, type[DiffusersPolicy]] = {
    "sd15": SD15Policy,
    "sd3": SD3Policy,
    "flux": FluxPolicy,
}
NETWORKS = {"sd15": (UNet, UNetConfig), "sd3": (MMDiT, MMDiTConfig), "flux": (Flux, FluxConfig)}


def policy(model: ModelConfig, adapter: AdapterConfig, *, size: Size = "full") -> DiffusersPolicy:
    """The policy of `model.family` with weights that are drawn when they are first used.

    Nothing is read from `model.path`; that of FLUX.1 names schnell or dev. What a prompt says is
    of no matter: its letters are its tokens. size: of the shapes, see `architectures.Size`.
    """
    documents = architectures.documents(model.family, model.path, size=size)
    pipeline = _Drawn(model.family, documents)
    return POLICIES[model.family](model, adapter, seed=0, pipeline=pipeline)


class _Drawn(loading.Folder):
    """A pipeline without files: its documents are given, and its weights are drawn."""

    def __init__(self, family: str, documents: architectures.Documents):
        self.name = self._where = "drawn weights"
        self._family, self._source = family, None
        self.index = {component: ["drawn", ""] for component in documents}
        self._documents = documents

    def kind(self, component: str) -> str:
        return self._documents[component]["architectures"][0]

    def document(self, component: str, file: str = "config.json") -> dict[str, Any]:
        return dict(self._documents[component])

    def tokenizer(self, component: str) -> Any:
        encoder = component.replace("tokenizer", "text_encoder")
        return _Letters(self._documents[encoder]["vocab_size"])

    def weights(self, component: str) -> dict[str, mx.array]:
        flat = loading.flat(self._empty(component))
        drawn = {name: 0.02 * mx.random.normal(array.shape) for name, array in flat.items()}
        return {n: w.transpose(0, 3, 1, 2) if w.ndim == 4 else w for n, w in drawn.items()}

    def origin(self, component: str) -> str:
        return f"{self._where}: {component}"

    def _empty(self, component: str) -> nn.Module:
        if component.startswith("text_encoder"):
            return self._empty_encoder(component)
        network, sizes = (Decoder, VAEConfig) if component == "vae" else NETWORKS[self._family]
        return network(self.settings(component, sizes))


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

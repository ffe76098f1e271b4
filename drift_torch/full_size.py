"""Real model families at their full size, with random weights: nothing is downloaded.

Other sizes make fewer layers, or a few thousand weights, of the same classes. Text is read with a
vocabulary of letters: what a prompt says is of no matter here.
"""

import importlib
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.backends import Conditioning
from common.config import AdapterConfig, ModelConfig
from common.pipelines import architectures
from common.pipelines.architectures import Size
from drift_torch import estimate, loading
from drift_torch.diffusion import DTYPES, DiffusersPolicy
from drift_torch.flux import FluxPolicy
from drift_torch.sd3 import SD3Policy
from drift_torch.sd15 import SD15Policy

__all__ = ["denoiser", "policy", "without_content"]

POLICIES: dict[str, type[DiffusersPolicy]] = {
    "sd15": SD15Policy,
    "sd3": SD3Policy,
    "flux": FluxPolicy,
}

LETTERS = string.ascii_lowercase + string.digits
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
PIECES = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]


def policy(
    model: ModelConfig, adapter: AdapterConfig, *, device: torch.device, size: Size = "full"
) -> DiffusersPolicy:
    """The policy of `model.family` with random weights; nothing is read from `model.path`.

    Args:
        model: family, dtype and memory settings; the path of FLUX.1 names schnell or dev.
        adapter: what is trained.
        device: where the weights are made; "meta" makes none at all.
        size: of the shapes, see `architectures.Size`.
    """
    loading.check_dtype(model.dtype, device)  # before gigabytes of weights are drawn
    loading.quiet()
    pipeline = _pipeline(model, device, size)
    model = model.model_copy(update={"shard": "none"})
    return POLICIES[model.family](model, adapter, seed=0, device=device, pipeline=pipeline)


def denoiser(model: ModelConfig, device: torch.device, size: Size = "full") -> nn.Module:
    """The network of `model.family` that is trained, without an adapter, with random weights."""
    name, dtype = POLICIES[model.family].DENOISER, DTYPES[model.dtype]
    document = architectures.documents(model.family, model.path, size=size)[name]
    with _created_on(device, dtype):
        return _component(name, model.family, document)


def without_content(
    model: ModelConfig, adapter: AdapterConfig, *, size: Size = "full"
) -> DiffusersPolicy:
    """The same policy of arrays without content that act as on a CPU: for estimates alone."""
    device = torch.device("cpu")
    made = policy(model, adapter, device=torch.device("meta"), size=size)
    made.move_buffers(device)
    encoders, encode = made.transient_parts(1)["encoding"]
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        estimate.without_content(encoders, mode, device),
    ):
        read = encode()
    tokens = torch.zeros(read.tokens.shape, dtype=read.tokens.dtype)
    pooled = None if read.pooled is None else torch.zeros(read.pooled.shape, dtype=tokens.dtype)
    made.use_conditioning(Conditioning(tokens, pooled, read.blocks))
    return made


def _pipeline(model: ModelConfig, device: torch.device, size: Size) -> Any:
    """The same pipeline object that `from_pretrained` gives."""
    dtype, parts = DTYPES[model.dtype], {}
    documents = architectures.documents(model.family, model.path, size=size)
    for name, document in documents.items():
        if name == "scheduler":
            continue
        with _created_on(device, torch.float32 if name == "vae" else dtype):
            parts[name] = _component(name, model.family, document)
    if model.offload and device.type == "cuda":
        for name in parts.keys() - {"unet", "transformer"}:
            parts[name].to("cpu")
    for name in documents:
        if name.startswith("text_encoder"):
            tokenizer = _pieces() if "d_model" in documents[name] else _words()
            parts[name.replace("text_encoder", "tokenizer")] = tokenizer
    diffusers, scheduler = _library("diffusers"), documents["scheduler"]
    flow = diffusers.FlowMatchEulerDiscreteScheduler
    match model.family:
        case "sd15":
            none = {"safety_checker": None, "feature_extractor": None}
            return diffusers.StableDiffusionPipeline(
                scheduler=diffusers.DDIMScheduler(**scheduler),
                requires_safety_checker=False,
                **none,
                **parts,
            )
        case "sd3":
            return diffusers.StableDiffusion3Pipeline(scheduler=flow(**scheduler), **parts)
        case _:
            return diffusers.FluxPipeline(scheduler=flow(**scheduler), **parts)


def _component(name: str, family: str, document: Mapping[str, Any]) -> nn.Module:
    """One network, of the class that the pipeline has there."""
    diffusers, transformers = _library("diffusers"), _library("transformers")
    match name:
        case "unet":
            return diffusers.UNet2DConditionModel(**document)
        case "transformer" if family == "sd3":
            return diffusers.SD3Transformer2DModel(**document)
        case "transformer":
            return diffusers.FluxTransformer2DModel(**document)
        case "vae":
            return diffusers.AutoencoderKL(**document)
    (kind,) = document["architectures"]
    if kind == "T5EncoderModel":
        config = transformers.T5Config(**document)
    else:
        end = WORDS.index("<|endoftext|>")
        marks = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
        config = transformers.CLIPTextConfig(**document, **marks)
    return getattr(transformers, kind)(config).eval()


@contextmanager
def _created_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within it, modules are made on the device and in the dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _words() -> Any:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    return _library("transformers").CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _pieces() -> Any:
    scores = [(piece, 0.0 if piece.startswith("<") else -2.0) for piece in PIECES]
    return _library("transformers").T5Tokenizer(vocab=scores, extra_ids=0)


def _library(name: str) -> Any:
    """A library that takes seconds to import, and whose types are unknown."""
    return importlib.import_module(name)

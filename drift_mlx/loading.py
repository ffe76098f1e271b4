"""Reading a diffusers pipeline without PyTorch: configurations, weights and tokenizers."""

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from common import pipelines
from common.arrays import check_shapes
from common.config import ModelConfig
from drift_mlx.kit import source
from drift_mlx.networks.text import CLIPText, CLIPTextConfig, T5Config, T5Encoder
from drift_mlx.networks.vae import Decoder, VAEConfig

__all__ = ["DTYPES", "Folder", "fill", "flat", "quantized"]

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}

T = TypeVar("T")

WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Library -> the name of the weights of its components."""

PATTERNS = ("*.json", "*.txt", "*.model", "*/*.safetensors")
"""Files of a repository that are downloaded, for the components that are used."""

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the VAE's attention in files of Stable Diffusion 1 and 2, and today's."""

BLOCK = re.compile(r"(^|[._])blocks?\.")
"""Matches the name of a linear inside of a block of a denoiser or a T5."""

GROUPS = (64, 32)
"""Weights that share a scale; the first number that divides the inputs of a linear."""

CLIP_TYPES = ("CLIPTextModel", "CLIPTextModelWithProjection")


class Folder:
    """A diffusers pipeline on disk, of the family that the configuration says.

    Raises ValueError in one line, here and in every method, for what is missing, damaged, of
    another family, or made of parts that are not known here.
    """

    def __init__(self, model: ModelConfig, without: tuple[str, ...] = ()):
        self.index = pipelines.check(model, without)
        self.name = str(model.path)
        self._where = f"model.path = '{model.path}'"
        self._source = source.Source(model) if model.weights else None
        self._path = Path(self.name).expanduser()
        if not self._path.is_dir():
            self._path = self._downloaded(without)

    def has(self, component: str) -> bool:
        """Whether the pipeline has such a component."""
        entry = self.index.get(component)
        return isinstance(entry, list) and entry[0] is not None

    def kind(self, component: str) -> str:
        """The class of a component."""
        return str(self.index[component][1])

    def document(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """A JSON file of a component."""
        path = self._path / component / file
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"{self._where}: {component}/{file} is missing") from None
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ValueError(f"{self._where}: {component}/{file} is damaged")
        return document

    def settings(self, component: str, kind: type[T]) -> T:
        """The configuration of a component as the dataclass that knows its keys.

        Where that says which values it knows (a tuple named as the key, in capitals) or which ones
        are fixed (`FIXED`), others are refused.
        """
        given = self.document(component)
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        settings = kind(**{key: _frozen(value) for key, value in given.items() if key in known})
        for key in known:
            valid, value = getattr(kind, key.upper(), None), getattr(settings, key)
            for each in value if isinstance(value, tuple) else (value,):
                if valid is not None and each not in valid:
                    raise ValueError(self._unknown(component, key, each, valid))
        for key, value in getattr(kind, "FIXED", {}).items():
            if given.get(key, value) != value:
                raise ValueError(self._unknown(component, key, given[key], (value,)))
        return settings

    def weights(self, component: str) -> dict[str, mx.array]:
        """The arrays of a component by name, not read from disk before they are used.

        Those of the denoiser and the VAE are of `model.weights`, where it has them.
        """
        if self._source is not None and self._source.has(component):
            return self._source.vae() if component == "vae" else self._source.denoiser()
        stem = WEIGHTS.get(str(self.index[component][0]), "model")
        folder = self._path / component
        files = self._files(folder, stem)
        if not files:
            existing = sorted(path.name for path in folder.glob(f"{stem}*"))
            also = f"; it has {', '.join(existing)}" if existing else ""
            raise ValueError(f"{self._where}: {component}/{stem}.safetensors is missing{also}")
        arrays: dict[str, Any] = {}
        for file in files:
            try:
                arrays |= mx.load(str(file))  # type: ignore[operator]
            except (RuntimeError, ValueError, OSError) as error:
                line = " ".join(str(error).split())[:200]
                raise ValueError(f"{self._where}: {component}/{file.name}: {line}") from None
        return arrays

    def origin(self, component: str) -> str:
        """The name of a component's weights in an error message."""
        given = self._source is not None and self._source.has(component)
        return f"{self._source.where if self._source and given else self._where}: {component}"

    def tokenizer(self, component: str) -> Any:
        """A tokenizer of the transformers library, which needs no PyTorch for it."""
        # It says on import that there is no PyTorch, which is no news here.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        import transformers
        from transformers.utils import logging

        logging.set_verbosity_error()
        kind = getattr(transformers, self.kind(component), transformers.AutoTokenizer)
        with pipelines.load_errors_in_one_line(self.name), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return kind.from_pretrained(self._path / component)

    def text_encoder(self, component: str, dtype: mx.Dtype, bits: int = 0) -> CLIPText | T5Encoder:
        """A CLIP or T5 of the pipeline, frozen; of a T5 the blocks are quantised."""
        weights, module = self.weights(component), self._empty_encoder(component)
        if isinstance(module, CLIPText):
            weights = {name.removeprefix("text_model."): w for name, w in weights.items()}
            weights.pop("embeddings.position_ids", None)
        else:
            embedded = weights.pop("encoder.embed_tokens.weight", None)
            if embedded is not None:
                weights.setdefault("shared.weight", embedded)
        fill(module, weights, f"{self._where}: {component}", dtype)
        if dtype == mx.float16 and isinstance(module, T5Encoder):
            # Its MLP goes beyond float16's largest number; transformers does the same.
            fill(module, weights, component, mx.float32, only=lambda name: ".wo." in name)
        if isinstance(module, T5Encoder):
            quantized(module, bits)
        return module

    def vae(self) -> tuple[Decoder, VAEConfig]:
        """The decoder of the VAE, frozen, in float32."""
        config, weights = self.settings("vae", VAEConfig), self.weights("vae")
        kept = {_modern(name): w for name, w in weights.items() if not _of_encoder(name)}
        for name, w in kept.items():
            if ".attentions." in name and w.ndim == 4:  # a linear that was once a 1 x 1 convolution
                kept[name] = w[:, :, 0, 0]
        module = Decoder(config)
        fill(module, kept, self.origin("vae"), mx.float32)
        return module, config

    def _empty_encoder(self, component: str) -> CLIPText | T5Encoder:
        """A text encoder of the pipeline's class and sizes, without its weights."""
        kind = self.kind(component)
        if kind in CLIP_TYPES:
            config = self.settings(component, CLIPTextConfig)
            return CLIPText(config, projected=kind.endswith("WithProjection"))
        if kind == "T5EncoderModel":
            return T5Encoder(self.settings(component, T5Config))
        valid = (*CLIP_TYPES, "T5EncoderModel")
        raise ValueError(self._unknown("model_index.json", component, kind, valid))

    def _files(self, folder: Path, stem: str) -> list[Path]:
        """The files of a component's weights: whole or in shards, else those of float16."""
        for variant in ("", ".fp16"):
            table = folder / f"{stem}.safetensors.index{variant}.json"
            for candidate in (table, folder / f"{stem}{variant}.safetensors.index.json"):
                if candidate.is_file():
                    names = self.document(folder.name, candidate.name).get("weight_map", {})
                    return [folder / name for name in sorted(set(names.values()))]
            if (whole := folder / f"{stem}{variant}.safetensors").is_file():
                return [whole]
        return []

    def _downloaded(self, without: tuple[str, ...]) -> Path:
        from huggingface_hub import snapshot_download

        ignored = ["*.fp16*", "*non_ema*", "*.msgpack", *(f"{name}/*" for name in without)]
        if self._source is not None:
            ignored.append("transformer/*.safetensors")
        with pipelines.load_errors_in_one_line(self.name):
            return Path(
                snapshot_download(self.name, allow_patterns=list(PATTERNS), ignore_patterns=ignored)
            )

    def _unknown(self, component: str, key: str, value: Any, valid: Any) -> str:
        return f"{self._where}: {component} says {key} = {value!r}; valid here: " + ", ".join(
            repr(each) for each in valid
        )


def fill(
    module: nn.Module,
    weights: Mapping[str, mx.array],
    what: str,
    dtype: mx.Dtype,
    *,
    only: Callable[[str], bool] = lambda _: True,
) -> None:
    """Put weights, in PyTorch's layout, into a module, which is frozen then.

    what: the component, for the ValueError that names a missing, extra or misshapen array. only:
    whether the array of that name is replaced. Nothing is read from disk yet. Linears whose
    weights come with scales become quantised ones.
    """
    _as_packed(module, weights)
    # MLX convolves images whose channels come last: [out, in, ky, kx] to [out, ky, kx, in].
    last = {n: w.transpose(0, 2, 3, 1) if w.ndim == 4 else w for n, w in weights.items()}
    shapes = {name: tuple(array.shape) for name, array in flat(module).items()}
    check_shapes(last, shapes, what)  # type: ignore[arg-type]
    chosen = [
        (name, w if w.dtype == mx.uint32 else w.astype(dtype))
        for name, w in last.items()
        if only(name)
    ]
    module.load_weights(chosen, strict=False)
    module.freeze()


def _as_packed(module: nn.Module, weights: Mapping[str, mx.array]) -> None:
    """Quantise the linears that `weights` has packed: [out, in bits / 32] and [out, in / group]."""

    def packed(path: str, part: nn.Module) -> bool | dict[str, int]:
        if not isinstance(part, nn.Linear) or f"{path}.scales" not in weights:
            return False
        width, words = part.weight.shape[1], weights[f"{path}.weight"].shape[1]
        return {
            "group_size": width // weights[f"{path}.scales"].shape[1],
            "bits": 32 * words // width,
        }

    if any(name.endswith(".scales") for name in weights):
        nn.quantize(module, class_predicate=packed)


def flat(module: nn.Module) -> dict[str, mx.array]:
    """The arrays of a module by name."""
    pairs: Any = tree_flatten(module.parameters())
    return dict(pairs)


def quantized(module: nn.Module, bits: int) -> None:
    """Hold the linears inside of a network's blocks in groups of a few bits, each with a scale.

    bits: 4 or 8; 0 changes nothing. What enters and leaves the blocks keeps its digits, as
    do linears whose inputs do not divide into groups.
    """

    def group(path: str, part: nn.Module) -> bool | dict[str, int]:
        if not isinstance(part, nn.Linear) or not BLOCK.search(path):
            return False
        width = part.weight.shape[1]
        size = next((size for size in GROUPS if width % size == 0), 0)
        return {"group_size": size, "bits": bits} if size else False

    if bits:
        nn.quantize(module, class_predicate=group)
        module.freeze()


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _of_encoder(name: str) -> bool:
    return name.startswith(("encoder.", "quant_conv."))


def _modern(name: str) -> str:
    """Today's name of a parameter of the VAE."""
    parts = name.split(".")
    if "attentions" not in parts:
        return name
    return ".".join(OLD_ATTENTION.get(part, part) for part in parts)

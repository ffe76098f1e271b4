"""Reading a diffusers pipeline without PyTorch: configurations, weights and tokenizers."""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from common import pipelines
from common.arrays import check_shapes
from common.config import ModelConfig
from common.pipelines import files
from drift_mlx.kit import source
from drift_mlx.networks.text import CLIPText, CLIPTextConfig, T5Config, T5Encoder
from drift_mlx.networks.vae import Decoder, VAEConfig

__all__ = ["DTYPES", "Folder", "fill", "flat", "quantized"]

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}

T = TypeVar("T")

PATTERNS = ("*.json", "*.txt", "*.model", "*/*.safetensors")
"""Files of a repository that are downloaded, for the components that are used."""

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the VAE's attention in files of Stable Diffusion 1 and 2, and today's."""

BLOCK = re.compile(r"(^|[._])blocks?\.")
"""Matches the name of a linear inside of a block of a denoiser or a T5."""

GROUPS = (64, 32)
"""Weights that share a scale; the first number that divides the inputs of a linear."""

MAYBE_ZERO = (
    "dual_attention_layers",
    "eos_token_id",
    "layers_per_block",
    "num_hidden_layers",
    "num_layers",
    "num_single_layers",
)
"""Whole numbers of a configuration that may be 0."""

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
        files.check_files(self._path, files.components(self.index, without), self._where)
        if model.family in pipelines.PIPELINES:
            files.check_settings(self._path, model.family, self._where)

    def has(self, component: str) -> bool:
        """Whether the pipeline has such a component."""
        entry = self.index.get(component)
        return isinstance(entry, list) and entry[0] is not None

    def kind(self, component: str) -> str:
        """The class of a component."""
        return str(self.index[component][1])

    def document(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """A JSON file of a component."""
        return files.document(self._path, component, file, self._where)

    def settings(self, component: str, kind: type[T]) -> T:
        """The configuration of a component as the dataclass that knows its keys.

        Where that says which values it knows (a tuple named as the key, in capitals) or which ones
        are fixed (`FIXED`), others are refused.
        """
        given = self.document(component)
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        hints, own = get_type_hints(kind), {}
        for key in sorted(known & given.keys()):
            own[key] = _frozen(given[key])
            if not _fits(own[key], hints[key], 0 if key in MAYBE_ZERO else 1):
                valid = getattr(hints[key], "__name__", str(hints[key]))
                raise ValueError(
                    f"{self._where}: {component}/config.json says {key} = {given[key]!r}; valid "
                    f"here: {valid}"
                )
        settings = kind(**own)
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
        arrays: dict[str, Any] = {}
        for file in self._weight_paths(component):
            try:
                arrays |= mx.load(str(file))  # type: ignore[operator]
            except (RuntimeError, ValueError, OSError) as error:
                line = " ".join(str(error).split())[:200]
                raise ValueError(f"{self._where}: {component}/{file.name}: {line}") from None
        return arrays

    def origin(self, component: str) -> str:
        """The name of a component's weights in an error message, with their file if it is one."""
        if self._source is not None and self._is_given(component):
            return f"{self._source.where}: {component}"
        paths = self._weight_paths(component)
        return f"{self._where}: {component}" + (f"/{paths[0].name}" if len(paths) == 1 else "")

    def _weight_paths(self, component: str) -> list[Path]:
        library = str(self.index[component][0])
        return files.weight_files(self._path, component, library, self._where)[1]

    def tokenizer(self, component: str) -> Any:
        """A tokenizer of the transformers library, which needs no PyTorch for it."""
        # It says on import that there is no PyTorch, which is no news here.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        import transformers
        from transformers.utils import logging

        logging.set_verbosity_error()
        kind = getattr(transformers, self.kind(component), transformers.AutoTokenizer)
        what = f"{self._where}: {component}"
        with pipelines.library_errors_in_one_line(what), warnings.catch_warnings():
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
        fill(module, weights, self.origin(component), dtype)
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
        module = self.made("vae", lambda: Decoder(config))
        fill(module, kept, self.origin("vae"), mx.float32)
        return module, config

    def made(self, component: str, make: Callable[[], T]) -> T:
        """What is made of the configuration of a component; ValueError where that cannot be."""
        with pipelines.library_errors_in_one_line(f"{self._where}: {component}/config.json"):
            return make()

    def _empty_encoder(self, component: str) -> CLIPText | T5Encoder:
        """A text encoder of the pipeline's class and sizes, without its weights."""
        kind = self.kind(component)
        if kind in CLIP_TYPES:
            config = self.settings(component, CLIPTextConfig)
            projected = kind.endswith("WithProjection")
            return self.made(component, lambda: CLIPText(config, projected=projected))
        if kind == "T5EncoderModel":
            sizes = self.settings(component, T5Config)
            return self.made(component, lambda: T5Encoder(sizes))
        valid = (*CLIP_TYPES, "T5EncoderModel")
        raise ValueError(self._unknown("model_index.json", component, kind, valid))

    def _downloaded(self, without: tuple[str, ...]) -> Path:
        """The folder of the repository: its weights, or those of float16 if it has no others."""
        from huggingface_hub import snapshot_download

        ignored = ["*non_ema*", "*.msgpack", *(f"{name}/*" for name in without)]
        if self._source is not None:
            ignored.append("transformer/*.safetensors")

        def fetch(*also: str) -> Path:
            with pipelines.load_errors_in_one_line(self.name):
                patterns = {"allow_patterns": list(PATTERNS), "ignore_patterns": [*ignored, *also]}
                return Path(snapshot_download(self.name, **patterns))

        folder = fetch("*.fp16*")
        for name, library in files.components(self.index, without).items():
            if (folder / name / "config.json").is_file() and not self._is_given(name):
                try:
                    files.weight_files(folder, name, library, name)
                except ValueError:
                    return fetch()
        return folder

    def _is_given(self, component: str) -> bool:
        """Whether `model.weights` has the weights of a component."""
        return self._source is not None and self._source.has(component)

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
    shapes = {name: _in_pytorch(array.shape) for name, array in flat(module).items()}
    check_shapes(weights, shapes, what)
    last = {n: w.transpose(0, 2, 3, 1) if w.ndim == 4 else w for n, w in weights.items()}
    chosen = [
        (name, w if w.dtype == mx.uint32 else w.astype(dtype))
        for name, w in last.items()
        if only(name)
    ]
    module.load_weights(chosen, strict=False)
    module.freeze()


def _in_pytorch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight in a file; an image's channels come last in MLX."""
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else tuple(shape)


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


def _fits(value: Any, hint: Any, least: int) -> bool:
    """Whether a value of a configuration has the type of a field; whole numbers from `least` on."""
    if isinstance(hint, UnionType):
        return any(_fits(value, each, least) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0], least) for v in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is int:
        return isinstance(value, int) and value >= least
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def _of_encoder(name: str) -> bool:
    return name.startswith(("encoder.", "quant_conv."))


def _modern(name: str) -> str:
    """Today's name of a parameter of the VAE."""
    parts = name.split(".")
    if "attentions" not in parts:
        return name
    return ".".join(OLD_ATTENTION.get(part, part) for part in parts)

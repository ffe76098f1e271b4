"""`model.weights`: the denoiser and VAE that DiffusionKit publishes, for the networks here.

Its repositories (argmaxinc/mlx-*) hold the denoiser as its makers named it, in one file with the
VAE or beside an `ae.safetensors`; the quantised ones hold what DiffusionKit made of it. The rest of
the pipeline (configurations, text encoders, tokenizers, scheduler) is that of `model.path`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from common import pipelines
from common.config import ModelConfig
from drift_mlx import kit
from drift_mlx.kit import names
from drift_mlx.kit.names import Arrays

__all__ = ["Source"]

KEY = "model.weights"

PREFIX = "model.diffusion_model."
"""Prefix of a denoiser's names, in files that have other components too."""

DECODERS = ("first_stage_model.decoder.", "decoder.")
"""Prefixes that the names of a VAE's decoder may have."""

OTHERS = ("first_stage_model.", "text_encoders.", "encoder.", "decoder.")
"""Prefixes of names that are not a denoiser's."""

MADE = "multimodal_transformer_blocks."
"""Prefix that only DiffusionKit gives: a file with it needs no renaming."""

SIGNS = {
    "joint_blocks.": "sd3",
    "double_blocks.": "flux",
    "unified_transformer_blocks.": "flux",
    MADE: "sd3",
}
"""Prefix of names -> the family that has it, the surest first."""


class Source:
    """The file, folder or repository at `model.weights`.

    It keeps no arrays: they are freed with the caller's references. Raises ValueError in one
    line, here and in every method, for what is missing, damaged, twice there, or of another
    family, and `kit.UnavailableError` without DiffusionKit.
    """

    def __init__(self, model: ModelConfig):
        self.where = f"{KEY} = '{model.weights}'"
        try:
            self._io: Any = kit.load().model_io
        except kit.UnavailableError as error:
            raise kit.UnavailableError(f"{self.where}: diffusionkit is {error}") from None
        self._family, self._bits = model.family, model.quantize
        self._files = self._weight_files(str(model.weights))
        self._check()

    def has(self, component: str) -> bool:
        """Whether it has the weights of a component of the pipeline."""
        if component == "vae":
            return any(f"{before}conv_in.weight" in self._read() for before in DECODERS)
        return component == "transformer"

    def denoiser(self) -> Arrays:
        """Its arrays under diffusers' names, in PyTorch's layout.

        A quantised linear has `weight`, `scales` and `biases`.
        """
        given, zero_biases = self._denoiser(), {}
        named = names.flux_named if self._family == "flux" else names.sd3_named
        with self._name_errors_in_one_line("transformer"):
            if any(name.startswith(MADE) for name in given):
                zero_biases = _zero_key_biases(given)
            else:
                given = named(given, self._io)
            arrays = names.diffusers_denoiser(given | zero_biases, flux=self._family == "flux")
        if zero_biases:
            warnings.warn(
                f"{self.where}: its making dropped the biases of {len(zero_biases)} key "
                "projections; they are zero here, so this is another model than the one that it "
                "was made of",
                stacklevel=2,
            )
        return arrays

    def vae(self) -> Arrays:
        """The arrays of its decoder, as those of the denoiser."""
        given = self._read()
        before = next(before for before in DECODERS if f"{before}conv_in.weight" in given)
        own = {name: array for name, array in given.items() if name.startswith(before)}
        with self._name_errors_in_one_line("vae", before):
            if any(".mid_blocks." in name for name in own):
                named = {name.removeprefix(before): array for name, array in own.items()}
            else:
                named = self._io.vae_decoder_state_dict_adjustments(own, before)
            return names.diffusers_decoder(named)

    @contextmanager
    def _name_errors_in_one_line(self, component: str, before: str = "") -> Iterator[None]:
        """Errors of renaming, raised within it, become a ValueError of one line.

        before: the prefix that was removed from the names.
        """
        try:
            yield
        except KeyError as error:
            name = f"{before}{error.args[0]}"
            raise ValueError(f"{self.where}: {component}: '{name}' is missing") from None
        except (ValueError, IndexError) as error:  # a tensor with too few dimensions
            line = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.where}: {component}: a tensor's shape: {line}") from None

    def _weight_files(self, name: str) -> list[Path]:
        path = Path(name).expanduser()
        if path.is_file():
            return [path]
        if not path.is_dir():
            if not pipelines.REPOSITORY.fullmatch(name):
                raise ValueError(f"{self.where}: no such file or folder, and no repository name")
            from huggingface_hub import snapshot_download

            with pipelines.load_errors_in_one_line(name, KEY):
                path = Path(snapshot_download(name, allow_patterns=["*.safetensors"]))
        if not (files := sorted(path.glob("*.safetensors"))):
            raise ValueError(f"{self.where}: no .safetensors file is in it")
        return files

    def _read(self) -> Arrays:
        """All arrays of all files by name; their contents are read when they are used."""
        arrays: Arrays = {}
        for file in self._files:
            try:
                in_file: Any = mx.load(str(file), format="safetensors")
            except (RuntimeError, ValueError, OSError) as error:
                line = " ".join(str(error).split())[:200]
                raise ValueError(f"{self.where}: {file.name}: {line}") from None
            if twice := sorted(arrays.keys() & in_file.keys()):
                raise ValueError(
                    f"{self.where}: '{twice[0]}' is in {file.name} and in another of its "
                    f"{len(self._files)} files; name one file"
                )
            arrays |= in_file
        return arrays

    def _denoiser(self) -> Arrays:
        """The denoiser's arrays under the names of the file, without a prefix."""
        given = self._read()
        own = {n.removeprefix(PREFIX): a for n, a in given.items() if n.startswith(PREFIX)}
        return own or {n: a for n, a in given.items() if not n.startswith(OTHERS)}

    def _check(self) -> None:
        """Whether the family is the one asked for, and the bits of its weights."""
        given = self._denoiser()
        kind = next((SIGNS[s] for s in SIGNS if any(n.startswith(s) for n in given)), None)
        if kind is None:
            content = f"'{min(given)}' and the like" if given else "no denoiser at all"
            raise ValueError(
                f"{self.where} holds {content}, none of an SD3 or FLUX as DiffusionKit publishes "
                "them"
            )
        if kind != self._family:
            raise ValueError(
                f"{self.where} holds a {kind}, not a {self._family}: model.family = '{kind}'"
            )
        bits = _bits(given)
        if bits not in (0, 4, 8):
            raise ValueError(f"{self.where} holds weights of {bits} bits; valid here: 4, 8")
        if bits and bits != self._bits:
            raise ValueError(
                f"{self.where} holds weights of {bits} bits, on which only a low-rank adapter can "
                f"be trained: model.quantize = {bits} and adapter.kind = 'lora'"
            )


def _zero_key_biases(named: Arrays) -> Arrays:
    """Zeros for the biases of keys that a file made by DiffusionKit lacks."""
    stems = [name.removesuffix(".weight") for name in named if name.endswith(".k_proj.weight")]
    without = [stem for stem in stems if f"{stem}.bias" not in named]
    return {f"{stem}.bias": mx.zeros(len(named[f"{stem}.weight"])) for stem in without}


def _bits(given: Arrays) -> int:
    """Bits of a quantised file's weights; 0 of one that is not."""
    scales = next((name for name in given if name.endswith(".k_proj.scales")), None)
    if scales is None:
        return 0
    width, words = given[scales.replace(".scales", ".weight")].shape  # of a square matrix
    return 32 * words // width

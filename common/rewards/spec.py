"""The declaration of a scorer: range, scalings, device, batch, licence, version and options."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from common.config import Table, errors, key
from common.config.types import Precision

RAW = "raw"
"""The scaling that every reward has: the raw value."""

Device = Literal["host", "backend", "torch", "remote"]
"""Where a scorer computes: numpy or ONNX on the host; the policy's backend; PyTorch on a device
of its own choice; another process."""


@dataclass(frozen=True)
class Affine:
    """A named scaling of a raw score: (raw - shift) / divisor."""

    divisor: float = 1.0
    shift: float = 0.0

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Float64 [...] to float64 of the same shape; NaN stays NaN."""
        return (np.asarray(raw, dtype=np.float64) - self.shift) / self.divisor

    def __str__(self) -> str:
        inner = f"(s - {self.shift:g})" if self.shift else "s"
        return f"{inner} / {self.divisor:g}" if self.divisor != 1.0 else inner


class Options(Table):
    """`[reward.options.NAME]`: the options of every reward."""

    reward: str | None = key(
        None, "the registered reward that this term is, where NAME is a name of your own"
    )
    scaling: str = key(RAW, "what of the raw score is maximised, by the name of a scaling")
    batch_size: Annotated[int, Field(ge=1)] | None = key(
        None, "images of one call; unset = what the reward declares"
    )


class TorchOptions(Options):
    """The further options of a scorer in PyTorch."""

    device: Literal["auto", "cpu", "cuda", "mps"] = key(
        "auto", "where it computes, whatever the policy's backend is"
    )
    path: str | None = key(None, "its weights: a folder, a file or a name on the hub")
    dtype: Precision = key("float32", "of its weights")


@dataclass(frozen=True)
class Spec:
    """One registered scorer.

    range: the raw values it takes, in words and with their unit. needs: top-level modules that
    must be importable. version: changes whenever the same image and prompt would score otherwise;
    without one nothing is cached. licence: of its weights. weights: their origin.
    batch_size: images of one call, or None for all at once. groupwise: scores the images of one
    prompt together. exact: an image's score never depends on the other images of the call, to the
    last bit. control: no image deserves more than another, so it must be the only term. extra: the
    pip extra that installs its packages.
    """

    name: str
    description: str
    range: str
    needs: tuple[str, ...] = ()
    version: str = ""
    licence: str = ""
    weights: str = ""
    device: Device = "host"
    batch_size: int | None = None
    groupwise: bool = False
    exact: bool = False
    control: bool = False
    scalings: Mapping[str, Affine] = field(default_factory=dict)
    options: type[Options] = Options
    extra: str = "rewards"

    def missing(self) -> str:
        """Why it does not work here: the packages that are not installed; "" if it works."""
        absent = [module for module in self.needs if importlib.util.find_spec(module) is None]
        if not absent:
            return ""
        several = "packages" if len(absent) > 1 else "package"
        return f"needs the Python {several} {' and '.join(absent)}"

    def fetches(self) -> str:
        """The hub repository that its first use downloads, unless it is in the cache; or ""."""
        if not self.weights.startswith("hub:"):
            return ""
        repository = self.weights.removeprefix("hub:").split(" ")[0]
        return "" if cached(repository) else repository

    def parse(self, term: str, values: Mapping[str, Any]) -> Options:
        """The options of a term; ValueError names a wrong key and the valid ones."""
        try:
            return self.options.model_validate(dict(values))
        except ValidationError as error:
            where = f"reward.options.{term}"
            raise ValueError(f"{where}: {errors.explain(error, self.options)}") from None


def cached(repository: str) -> bool:
    """Whether files of a hub repository are in this machine's cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import constants

    folder = f"models--{repository.replace('/', '--')}"
    return any((Path(constants.HF_HUB_CACHE) / folder / "snapshots").glob("*/*"))


@dataclass(frozen=True)
class RewardInfo:
    """Facts about one scorer. works: here and now. needs: why it does not, or its download."""

    name: str
    description: str
    range: str
    works: bool
    needs: str = ""
    version: str = ""
    licence: str = ""
    weights: str = ""
    device: str = "host"
    batch_size: int | None = None
    groupwise: bool = False
    scalings: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str, str], ...] = ()
    """(key, default, meaning) of each."""


def info(spec: Spec) -> RewardInfo:
    """The facts of a scorer, here and now."""
    missing, fetched = spec.missing(), spec.fetches()
    fields = spec.options.model_fields.items()
    return RewardInfo(
        spec.name,
        spec.description,
        spec.range,
        works=not missing and not fetched,
        needs=missing or (f"weights {fetched}, by path or from the hub" if fetched else ""),
        version=spec.version,
        licence=spec.licence,
        weights=spec.weights,
        device=spec.device,
        batch_size=spec.batch_size,
        groupwise=spec.groupwise,
        scalings=tuple((name, str(scale)) for name, scale in spec.scalings.items()),
        options=tuple(
            (name, str(field.default), field.description or "") for name, field in fields
        ),
    )


Factory = Callable[..., Any]
"""(backend) -> callable, or (backend, options) -> callable where options are declared."""

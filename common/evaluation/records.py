"""The records of `drift eval`: one JSON line for each checkpoint and prompt split of a run.

`drift eval` writes these lines; `drift compare` and the results page read them, and nothing else.
"""

import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common import reading
from common.choices import Split
from common.errors import RequestError
from common.runs import files, line_log

FILE = Path("evaluation") / "records.jsonl"
"""Path within a run directory; the pictures are beside it."""

MEASURES = {
    "reward": "what was maximised",
    "alignment_train": "10 x cosine by the scorer that may have been trained on",
    "alignment_heldout": "10 x cosine by the held-out scorer",
    "diversity": "mean pairwise cosine distance of held-out features",
    "vendi": "Vendi score of held-out features: an effective number of images",
    "pixel_distance": "mean pairwise root-mean-square distance of pixels in [0, 1]",
    "modes": "icon styles that the images fall into",
    "high_frequency": "share of energy at high frequencies",
    "recall": "share of the base model's images within the tuned images' neighbourhoods",
    "coverage": "share of the base model's images with a tuned image in their neighbourhood",
}
"""Measures of one prompt's images. All but `high_frequency` are better when larger."""

GENERAL = (
    "reward",
    "diversity",
    "vendi",
    "pixel_distance",
    "high_frequency",
    "recall",
    "coverage",
)
"""Measures of every model; the others of MEASURES are the emoji model's own."""

HELD_OUT = "heldout/"
"""Begins the name of a measure that is the score of a held-out reward."""

IN_FEATURES = ("diversity", "vendi", "recall", "coverage")
"""Measures that are made in each of the image features."""

FRECHET, FRECHET_REAL = "frechet", "frechet_real"
"""Measures of all images together, in each of the features; the second by `evaluate.real`."""

WITH_BASE = ("reward", "recall", "coverage", FRECHET)
"""Measures that need a run and its base model; images alone have none of them."""

OPTIONAL = ("features", "sampler", "scorers", "more_features", "real")
"""Fields of a protocol that are written only where they say something."""


class RecordError(RequestError):
    """Measurements that cannot be read or used; one line with the file and the line number."""


@dataclass(frozen=True, order=True)
class Variant:
    """The weights that were measured, and how they were sampled.

    update: 0 is the base model, -1 see IMAGES. scale: factor on the adapter; 1 is as trained.
    prompt_noise: strength of CADS at inference; 0 is none. aig: exponent of annealed importance
    guidance; 0 is none, the tuned model at every step.
    """

    update: int
    scale: float = 1.0
    prompt_noise: float = 0.0
    aig: float = 0.0

    @property
    def name(self) -> str:
        """In words: "update 4 x 0.5 with prompt noise 0.1"."""
        name = f"update {self.update}" if self.update else "base model"
        if self == IMAGES:
            return "the images"
        if self.scale != 1.0:
            name += f" x {self.scale:g}"
        noise = [f"prompt noise {self.prompt_noise:g}"] if self.prompt_noise else []
        added = noise + ([f"AIG {self.aig:g}"] if self.aig else [])
        return name + (f" with {' and '.join(added)}" if added else "")

    @property
    def changes(self) -> list[str]:
        """What is changed at inference, in words: ["adapter scale 0.5", "CADS 0.1", "AIG 2"]."""
        scale = [f"adapter scale {self.scale:g}"] if self.scale != 1.0 else []
        noise = [f"CADS {self.prompt_noise:g}"] if self.prompt_noise else []
        return scale + noise + ([f"AIG {self.aig:g}"] if self.aig else [])

    @property
    def suffix(self) -> str:
        """The same for the name of a file: "-scale0.5-noise0.1-aig2"."""
        scale = f"-scale{self.scale:g}" if self.scale != 1.0 else ""
        noise = f"-noise{self.prompt_noise:g}" if self.prompt_noise else ""
        return scale + noise + (f"-aig{self.aig:g}" if self.aig else "")

    def values(self) -> dict[str, Any]:
        """Its fields as JSON has them; `aig` only where there is some."""
        return {name: value for name, value in asdict(self).items() if value or name != "aig"}


IMAGES = Variant(update=-1)
"""Stands for images that were made elsewhere: no weights of a run."""


@dataclass(frozen=True)
class Protocol:
    """How images were made: runs are compared only if all of this is the same.

    images: of each prompt. steps: of the ODE. seed: of the initial noise. model: digest of the
    base model's weights; "" = there is none, only images. prompts: of the split, in order.
    features: name of the image features that diversity and fidelity are measured in; "" = the
    emoji model's held-out ones. sampler: the settings beside these that determine the images, in
    words; "" = those of the emoji model. scorers: held-out rewards that score the images.
    more_features: further features, in which the same is measured under other names (see
    `in_features`). real: digest of the folder of real images that they are compared with; "" =
    none. Features are in words, see `features.label`.
    """

    images: int
    steps: int
    seed: int
    model: str
    split: Split
    prompts: tuple[str, ...]
    features: str = ""
    sampler: str = ""
    scorers: tuple[str, ...] = ()
    more_features: tuple[str, ...] = ()
    real: str = ""

    @property
    def has_base(self) -> bool:
        """Whether there is a base model; images alone have none, and no reward."""
        return bool(self.model)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures of each prompt that every record under it has."""
        own = GENERAL if self.features else tuple(MEASURES)
        more = (in_features(measure, each) for each in self.more_names for measure in IN_FEATURES)
        return (*filter(self._made, (*own, *more)), *(HELD_OUT + name for name in self.scorers))

    @property
    def overall(self) -> tuple[str, ...]:
        """The measures of all images together that every record under it has; `frechet` first."""
        kinds = filter(self._made, (FRECHET, FRECHET_REAL) if self.real else (FRECHET,))
        return tuple(in_features(kind, each) for kind in kinds for each in ("", *self.more_names))

    def _made(self, measure: str) -> bool:
        return self.has_base or measure.partition("/")[0] not in WITH_BASE

    @property
    def feature_labels(self) -> tuple[str, ...]:
        """Each of the features in words, in the order of `feature_names`."""
        return (self.features, *self.more_features)

    @property
    def feature_names(self) -> dict[str, str]:
        """The name of each of the features by what ends the names of its measures; "" first."""
        return {"": feature_name(self.features), **{name: name for name in self.more_names}}

    @property
    def more_names(self) -> tuple[str, ...]:
        """The names of the further features, without their options."""
        return tuple(map(feature_name, self.more_features))

    def values(self) -> dict[str, Any]:
        """Its fields as JSON has them; those of OPTIONAL only where they are not empty."""
        return {
            name: value for name, value in asdict(self).items() if value or name not in OPTIONAL
        }


@dataclass(frozen=True)
class Record:
    """One measured point.

    by_prompt: for each measure one value per prompt of the protocol. frechet: Frechet distance of
    the features to those of real images of the same prompts, or, where the model has none, to
    those of the base model's images; None without a base model. weights: digest of the sampled
    weights, the key of the cache, or of the images that were made elsewhere. grid: file of the
    picture beside the records. overall: the further measures of all images together, see
    `Protocol.overall`. real_folder: where the real images of the protocol were; "" = unknown, as
    in records before there was this field.
    """

    variant: Variant
    protocol: Protocol
    by_prompt: Mapping[str, tuple[float, ...]]
    frechet: float | None
    weights: str
    grid: str | None = None
    overall: Mapping[str, float] = field(default_factory=dict)
    real_folder: str = ""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of its measures, first those of each prompt in the order of MEASURES."""
        known = [name for name in MEASURES if name in self.by_prompt]
        others = sorted(self.by_prompt.keys() - MEASURES.keys())
        own = () if self.frechet is None else (FRECHET,)
        return (*known, *others, *own, *sorted(self.overall))

    @property
    def alignment(self) -> str:
        """The held-out alignment where it was measured, else the reward that is maximised."""
        return "alignment_heldout" if "alignment_heldout" in self.by_prompt else "reward"

    def values(self, measure: str) -> tuple[float, ...]:
        """A measure of each prompt; one of all images together is the same for each."""
        if measure in self.by_prompt:
            return tuple(self.by_prompt[measure])
        return (self.whole[measure],) * len(self.protocol.prompts)

    @property
    def whole(self) -> dict[str, float]:
        """The measures of all images together, `frechet` first."""
        own = {} if self.frechet is None else {FRECHET: self.frechet}
        return own | dict(self.overall)

    def mean(self, measure: str) -> float:
        """Mean of a measure over the prompts."""
        if measure not in self.by_prompt:
            return self.values(measure)[0]
        values = self.by_prompt[measure]
        return sum(values) / len(values)


def in_features(measure: str, name: str) -> str:
    """The name of a measure in further features: "diversity/clip"; "" names the first ones."""
    return f"{measure}/{name}" if name else measure


def feature_name(label: str) -> str:
    """The name of features that `features.label` has written with their options."""
    return label.partition(" (")[0]


LARGEST = 1e60
"""No measure is as large; products of larger ones would not be finite."""


class Folder(typing.Protocol):
    """A run, or what else has records in its folder."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...


def load(run: Folder) -> list[Record]:
    """The records of a run, oldest first; [] when it was not evaluated.

    An incomplete last line after a kill does not count. Raises RecordError for any other line that
    is not a record.
    """
    path = run.path / FILE
    return [record for _, record in line_log.read(path, _parser(path), RecordError)]


def parse(line: bytes | str, where: str) -> Record:
    """Parse one line. Raises RecordError, which begins with `where`."""
    try:
        values = reading.json_document(line)
        protocol = Protocol(**values["protocol"])
        record = Record(
            variant=Variant(**values["variant"]),
            protocol=replace(
                protocol,
                prompts=tuple(protocol.prompts),
                scorers=tuple(protocol.scorers),
                more_features=tuple(protocol.more_features),
            ),
            by_prompt={name: tuple(map(float, v)) for name, v in values["by_prompt"].items()},
            frechet=float(values["frechet"]) if "frechet" in values else None,
            weights=str(values["weights"]),
            grid=values.get("grid"),
            overall={name: float(v) for name, v in values.get("overall", {}).items()},
            real_folder=str(values.get("real_folder", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"{where}: not a record of `drift eval` ({reason})") from None
    prompts = len(record.protocol.prompts)
    how, there = record.protocol, {*record.by_prompt, *record.whole}
    if missing := {*how.measures, *how.overall} - there:
        raise RecordError(f"{where}: the measure '{min(missing)}' is missing; evaluate again")
    if unknown := there - {*how.measures, *how.overall}:
        raise RecordError(f"{where}: '{min(unknown)}' is no measure under that protocol")
    if wrong := [name for name, v in record.by_prompt.items() if len(v) != prompts]:
        raise RecordError(f"{where}: '{wrong[0]}' must have {prompts} values, one for each prompt")
    whole = {name: (value,) for name, value in record.whole.items()}
    for name, numbers in {**record.by_prompt, **whole}.items():
        if wild := [number for number in numbers if not abs(number) <= LARGEST]:  # NaN is not
            raise RecordError(f"{where}: '{name}' is {wild[0]:g}, which is no measure")
    return record


def append(run: Folder, record: Record) -> None:
    """Add a line. Raises files.WriteError (an OSError); the old records then stay."""
    path = run.path / FILE
    with files.os_errors_as(f"write {path}"):
        path.parent.mkdir(exist_ok=True)
    line_log.append(path, to_line(record).encode(), _parser(path))


def _parser(path: Path) -> line_log.Parse[Record]:
    return lambda line, number: parse(line, f"{path}, line {number}")


def to_line(record: Record) -> str:
    """The record as one JSON line, floats with all their digits."""
    values: dict[str, Any] = asdict(record) | {
        "protocol": record.protocol.values(),
        "variant": record.variant.values(),
    }
    if not record.overall:
        del values["overall"]
    if record.frechet is None:
        del values["frechet"]
    if not record.real_folder:
        del values["real_folder"]
    return json.dumps(values, allow_nan=False, sort_keys=True) + "\n"

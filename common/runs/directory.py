"""A run on disk: its configuration, its environment, its logs and its files."""

import errno
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from common import config as configuration, pictures, random, reading, temporary
from common.config import Config
from common.errors import RequestError
from common.runs import files, inputs, line_log, lock

CONFIG, ENVIRONMENT = "config.toml", "environment.json"
METRICS, EVALUATIONS, AUDITS = "metrics.jsonl", "evaluations.jsonl", "audits.jsonl"
FINGERPRINT, DIGESTS, STARTS = "noise_fingerprint", "sha256", "starts"
"""Keys of `environment.json`: the random stream, the input files, and a record of each start."""

BEGAN, ENDED, SECONDS = "began", "ended", "seconds"
"""Keys of a start: its time, how it ended ("finished", "stopped", "failed: WHY"), its wall time.

The last two are missing while it goes on, and when its process was killed.
"""

FAILED = "failed: "
"""What comes before the reason in the ENDED of a start that failed."""

MODEL = ("model.path", "model.weights")

MAY_CHANGE = frozenset(
    {"run.updates", "run.backend", "run.recipe", "rollout.batch_size", "objective.micro_batch"}
    | {"checkpoint.every", "checkpoint.keep", "evaluate.every", "evaluate.grid", "evaluate.scorers"}
    | {"evaluate.real"}
    | {"model.gradient_checkpointing", "model.offload", "model.vae_slicing"}
    | {"model.compile", "model.attention", "model.shard"}
    | {"track.to", "track.project", "track.name", "track.offline", "track.pictures"}
)
"""Keys that a resumed run may change: none of them changes what is computed; see `may_change`.

With another backend, batch, micro-batch or kernel the order of sums changes, so numbers may differ
in their last bits from then on. The settings of evaluations are fixed: the last evaluation is
compared with the first.
"""


def may_change(config: Config) -> frozenset[str]:
    """Those of MAY_CHANGE that change nothing in a run of this configuration.

    run.updates counts where a training schedule spans the whole run, and evaluate.scorers where the
    watch of the run looks at them.
    """
    counting = set()
    if _spanning(config):
        counting.add("run.updates")
    if config.audit.every and not config.audit.scorers:
        counting.add("evaluate.scorers")
    return MAY_CHANGE - counting


def _spanning(config: Config) -> list[str]:
    """The training schedules that depend on the length of the run, as settings."""
    schedules = {
        f"drift.{name}.training_schedule": table.training_schedule
        for name, table in (("noise", config.drift.noise), ("shaping", config.drift.shaping))
    }
    return [f"{key} = '{name}'" for key, name in schedules.items() if name != "constant"]


class RunError(RequestError):
    """A run directory that cannot be made or used; the message is one line with the reason."""


class RunDirectory:
    """A folder that contains one run. `create` makes one, `open` opens one that exists.

    Methods that write raise `files.WriteError` (an OSError) in one line when the disk is full or
    the folder cannot be written; the old content of the file is then still there.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise RunError where `create` cannot make a run; nothing is made or changed."""
        with files.os_errors_as(f"make run directory {path}", RunError):
            parent = next(each for each in path.absolute().parents if each.exists())
            if not parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if not path.exists():
                return
            if not path.is_dir():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            present = sorted(entry.name for entry in path.iterdir())
        if CONFIG in present:
            raise RunError(
                f"{path} already holds a run; add --resume to go on with it, "
                "or choose another --out"
            )
        if strange := [name for name in present if not _is_of_creation(name)]:
            raise RunError(
                f"{path} is not empty and holds no run (it has '{strange[0]}'); "
                "choose another --out"
            )

    @classmethod
    def create(cls, path: Path, config: Config, environment: Mapping[str, Any]) -> "RunDirectory":
        """Make the folder with `config.toml` and `environment.json`.

        Raises RunError when the folder already holds a run or anything else, or cannot be written,
        and files.WriteError when the disk is full.
        """
        path = Path(path)
        with files.os_errors_as(f"make run directory {path}", RunError):
            path.mkdir(parents=True, exist_ok=True)
            with _locked_for_creation(path):
                cls.check_free(path)
                facts = {
                    FINGERPRINT: random.fingerprint(),
                    DIGESTS: inputs.digests(config),
                    STARTS: [{"update": 0, **environment}],
                }
                files.write_whole(path / ENVIRONMENT, line_log.encode(facts, indent=1))
                files.write_whole(path / CONFIG, _toml(config))
        return cls(path, config)

    @staticmethod
    def is_abandoned(path: Path) -> bool:
        """Whether a creation that was killed left this folder; an empty one is somebody else's."""
        try:
            present = os.listdir(path)
            if path.is_symlink() or not present or not all(map(_is_of_creation, present)):
                return False
            with _locked_for_creation(path):
                return True
        except (OSError, RunError):  # no folder, or another process makes a run in it
            return False

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """A run that exists. Raises RunError saying what is missing or damaged."""
        path = Path(path)
        with files.os_errors_as(f"open run directory {path}", RunError):
            if not path.is_dir():
                raise RunError(f"no run directory {path}: {_why_no_folder(path)}")
            for name in (CONFIG, ENVIRONMENT):
                if not (path / name).exists():
                    raise RunError(f"{path} is no run directory: {name} is missing")
        with files.os_errors_as(f"read {path / CONFIG}", RunError):
            content = reading.content(path / CONFIG)
        try:
            tables = reading.toml_document(content)
            if "run" not in tables:  # an emptied file would be a run with default settings
                raise RunError(f"{path / CONFIG} is damaged: it has no table [run]")
            config = configuration.parse(tables)
        except RunError:
            raise
        except ValueError as error:  # not UTF-8, not TOML, or a ConfigError
            raise RunError(f"{path / CONFIG} is damaged: {error}") from None
        run = cls(path, config)
        run.environment()
        return run

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The path of the report."""
        return self.path / "report.html"

    def environment(self) -> dict[str, Any]:
        """The content of `environment.json`; RunError when it is damaged."""
        file = self.path / ENVIRONMENT
        with files.os_errors_as(f"read {file}", RunError):
            try:
                facts = reading.json_document(reading.content(file))
            except ValueError:
                facts = None
        if not isinstance(facts, dict) or not _is_list_of_tables(facts.get(STARTS, [])):
            raise RunError(f"{file} is damaged: not a JSON object with a list of '{STARTS}'")
        if not isinstance(facts.get(DIGESTS, {}), dict):
            raise RunError(f"{file} is damaged: '{DIGESTS}' is no table")
        return facts

    def starts(self) -> list[dict[str, Any]]:
        """The machine and libraries of each start of the run, in order.

        `update` of each: the update after which it went on; 0 for the first.
        """
        return self.environment().get(STARTS, [])

    def sweep(self) -> None:
        """Remove the temporary files that killed processes have left in the run and its folders."""
        for folder in (self.path, *self.path.iterdir()):
            if folder.is_dir() and not folder.is_symlink():
                temporary.sweep(folder)

    def check_resumable(self, config: Config) -> None:
        """Raise RunError unless a resume with `config` gives the run that was never interrupted.

        The keys that `may_change` gives are free. model.path and model.weights may be other
        folders with the same files, as on another machine.
        """
        facts = self.environment()
        with files.os_errors_as(f"resume {self.path}", RunError):
            present = inputs.digests(config)
        stored = facts.get(DIGESTS, {})
        free = may_change(config)
        free |= {key for key in MODEL if key in stored and stored[key] == present.get(key)}
        if changed := configuration.differences(self.config, config, free):
            why = ""
            if any(line.startswith("run.updates:") for line in changed):
                why = f" ({_spanning(config)[0]} spans all updates of a run)"
            elif any(line.startswith("evaluate.scorers:") for line in changed):
                why = " (the watch of the run looks at them; audit.scorers can name others)"
            raise RunError(
                f"cannot resume {self.path} with other settings: {'; '.join(changed)}{why}; "
                "use the old values, or start a new run in another --out"
            )
        if facts.get(FINGERPRINT) != random.fingerprint():
            raise RunError(
                f"cannot resume {self.path}: numpy {np.__version__} draws other random numbers "
                "than the one it was started with; install that one, or start a new run"
            )
        for key, digest in stored.items():
            if present.get(key) != digest:
                fate = "has changed" if key in present else "is not there any more"
                name = inputs.files_of(config).get(key, "a file")
                raise RunError(
                    f"cannot resume {self.path}: {name}, which {key} names, {fate} "
                    "since the run was started; restore the old content, or start a new run"
                )

    def locked(self) -> AbstractContextManager[None]:
        """A context in which this process alone trains in the run; RunError when another does."""
        return lock.locked(
            self.path,
            busy=RunError(f"another process is training in {self.path}; stop it first"),
            opening=f"open run directory {self.path}",
            refused=RunError,
        )

    def adopt(self, config: Config, environment: Mapping[str, Any], *, update: int) -> None:
        """Check `config`, then make it the configuration of the run, here and in `config.toml`.

        environment: facts of this start, which continues after `update`; added to `starts`.
        """
        self.check_resumable(config)
        facts = self.environment()
        facts[STARTS] = [*self.starts(), {"update": update, **environment}]
        with files.os_errors_as(f"write to {self.path}"):
            files.write_whole(self.path / ENVIRONMENT, line_log.encode(facts, indent=1))
            files.write_whole(self.path / CONFIG, _toml(config))
        self.config = config

    def end_start(self, ended: str, seconds: float) -> None:
        """Write down how the last start ended, and how long it took."""
        facts = self.environment()
        if not (starts := self.starts()):
            return
        facts[STARTS] = [*starts[:-1], {**starts[-1], ENDED: ended, SECONDS: round(seconds, 1)}]
        with files.os_errors_as(f"write to {self.path}"):
            files.write_whole(self.path / ENVIRONMENT, line_log.encode(facts, indent=1))

    def is_running(self) -> bool:
        """Whether a process trains in the run now."""
        return lock.is_locked(self.path)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add the line of one update to `metrics.jsonl`; NaN and infinity become null."""
        _append(self.path / METRICS, record)

    def metrics(self) -> list[dict[str, Any]]:
        """The updates logged so far, in order; null reads as NaN. RunError names a damaged line."""
        return [record for _, record in _lines(self.path / METRICS)]

    def append_evaluation(self, record: Mapping[str, Any]) -> None:
        """Add the line of one evaluation to `evaluations.jsonl`."""
        _append(self.path / EVALUATIONS, record)

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far, in order; null reads as NaN. RunError names a damaged line."""
        return [record for _, record in _lines(self.path / EVALUATIONS)]

    def append_audit(self, record: Mapping[str, Any]) -> None:
        """Add the line of one audit to `audits.jsonl`."""
        _append(self.path / AUDITS, record)

    def audits(self) -> list[dict[str, Any]]:
        """The audits so far, in order; null reads as NaN. RunError names a damaged line."""
        return [record for _, record in _lines(self.path / AUDITS)]

    def rewind(self, update: int) -> None:
        """Drop the records after `update`: a run that resumes from there logs them again."""
        for name in (METRICS, EVALUATIONS, AUDITS):
            file = self.path / name
            with files.os_errors_as(f"write {file}"):
                if file.exists():
                    kept = [line for line, record in _lines(file) if record["update"] <= update]
                    files.write_whole(file, b"".join(line + b"\n" for line in kept))

    def save_picture(self, name: str, image: np.ndarray, *, replace: bool = True) -> Path:
        """Write uint8 [H, W, 3] as `samples/NAME.png`; returns the file.

        replace: also where there is another picture; False takes NAME-2, NAME-3, ... then.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"picture name {name!r}: only letters, digits and _ . - are valid")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"picture {name}: {image.dtype} {image.shape}, not uint8 [H, W, 3]")
        file = self.path / "samples" / f"{name}.png"
        with files.os_errors_as(f"write {file}"):
            file.parent.mkdir(exist_ok=True)
            content = pictures.encode_png(image)
            if not replace:
                return files.write_beside_others(file, content)
            files.write_whole(file, content)
        return file


def _is_of_creation(name: str) -> bool:
    """Whether a killed creation leaves such a file: config.toml, written last, makes a run."""
    return name == ENVIRONMENT or temporary.is_leftover(name)


def _locked_for_creation(path: Path) -> AbstractContextManager[None]:
    busy = RunError(f"another process makes a run in {path}; choose another --out")
    return lock.locked(path, busy=busy, opening=f"make run directory {path}", refused=RunError)


def _why_no_folder(path: Path) -> str:
    return "it is a file" if path.exists() else "it is not there"


def _toml(config: Config) -> bytes:
    return tomli_w.dumps(configuration.to_tables(config)).encode()


def _append(file: Path, record: Mapping[str, Any]) -> None:
    if not isinstance(record.get("update"), int | np.integer):
        raise ValueError(f"{file.name}: a record needs 'update', a whole number")
    line_log.append(file, line_log.encode(record), _parser(file))


def _lines(file: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line and its record."""
    return line_log.read(file, _parser(file), RunError)


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _is_update(value: Any) -> bool:
    """Whether a value counts updates: a whole number that every format has room for."""
    return type(value) is int and 0 <= value < 1 << 53


def _parser(file: Path) -> line_log.Parse[dict[str, Any]]:
    def parse(line: bytes, number: int) -> dict[str, Any]:
        try:
            record = reading.json_document(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not _is_update(record.get("update")):
            raise RunError(f"{file} line {number} is damaged: not a record with an update")
        return line_log.nulls_as_nan(record)

    return parse

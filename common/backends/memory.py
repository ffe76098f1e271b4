"""Out of memory: at which stage, how much was asked for, and which settings lower it most."""

import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import config as configuration
from common.config import Config, ConfigError, toml
from common.errors import DriftError

__all__ = ["CHANGES", "OutOfMemoryError", "explain", "requested_bytes", "savings"]

Estimate = Callable[[Config], Mapping[str, int]]
"""A configuration -> bytes at the peak of each stage; see `Backend.estimate`."""


class OutOfMemoryError(DriftError, RuntimeError):
    """The device has no more memory; one line that says where, and what needs less."""


ESTIMATED = {
    "rollout": ("rollout", "encoding", "decoding"),
    "evaluation": ("rollout", "encoding", "decoding"),
    "update": ("update",),
}
"""The stages of an estimate that a stage of the trainer consists of."""


def _half(value: int) -> int | None:
    return value // 2 or None


def _on(value: bool) -> bool | None:
    return None if value else True


CHANGES: dict[str, tuple[frozenset[str], Callable[[Any], Any]]] = {
    "objective.micro_batch": (frozenset({"update"}), _half),
    "rollout.batch_size": (frozenset({"rollout", "decoding"}), _half),
    "model.gradient_checkpointing": (frozenset({"update"}), _on),
    "model.offload": (frozenset({"rollout", "encoding", "decoding", "update"}), _on),
    "model.vae_slicing": (frozenset({"decoding"}), _on),
}
"""Settings that lower memory and change no result: the stages that they lower, and how.

A run may be resumed with another value of any of them. None: it cannot go lower.
"""

SHOWN = 3

UNITS = {"": 1, "bytes": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_ASKED = re.compile(r"allocate\D{0,12}([\d.]+) *([KMGT]?)i?B?(?:ytes)?", re.IGNORECASE)


def requested_bytes(message: str) -> int | None:
    """Bytes that were asked for, from the message of a library; None if it names no number."""
    match = _ASKED.search(message)
    return round(float(match[1].rstrip(".")) * UNITS[match[2].lower()]) if match else None


def savings(estimate: Estimate, config: Config, stage: str) -> dict[str, tuple[Any, int]]:
    """Changes that lower a stage of the trainer: key -> (value, bytes less), the largest first.

    They are taken one at a time. The stage is judged by the largest of its parts.
    """
    before = estimate(config)
    parts = [name for name in ESTIMATED[stage] if name in before]
    if not parts:
        return {}
    peak = max(parts, key=lambda name: before[name])
    changes = {
        key: (value, before[peak] - estimate(changed)[peak])
        for key, (value, changed) in _changes(config, peak).items()
    }
    lower = {key: change for key, change in changes.items() if change[1] > 0}
    return dict(sorted(lower.items(), key=lambda item: -item[1][1]))


def explain(
    error: BaseException, stage: str, config: Config, *, estimate: Estimate | None, run: Path
) -> OutOfMemoryError:
    """The error to raise when memory ran out, with advice.

    Args:
        error: the library's.
        stage: "rollout", "update" or "evaluation"; any other has no estimate.
        config: of the run.
        estimate: None where there is no model yet to make one of.
        run: the run directory.
    """
    size = requested_bytes(str(error))
    more = f": {size / 1e9:.2f} GB more were asked for" if size else ""
    if estimate is None:
        return OutOfMemoryError(
            f"out of memory, {stage}{more}; model.offload = true and a half-precision model.dtype "
            "need less"
        )
    advice, words = _advice(stage, config, estimate)
    command = " --set ".join([f"drift run --resume --out {shlex.quote(str(run))}", *words])
    return OutOfMemoryError(
        f"out of memory, {stage}{more}; {advice}; what was saved is whole, go on with: {command}"
    )


def _advice(stage: str, config: Config, estimate: Estimate) -> tuple[str, list[str]]:
    """The changes that need less, in words, and the first one as `--set` takes it."""
    changes: dict[str, tuple[Any, Any]] = {}
    how = "these lower it most, by estimate"
    with suppress(Exception):  # no room left even to estimate: the first error is what counts
        changes = {**savings(estimate, config, stage)}
    if not changes:
        how = "these lower it"
        changes = {
            key: (value, 0) for key, (value, _) in _changes(config, *ESTIMATED[stage]).items()
        }
    if not changes:
        return "a lower model.resolution or adapter.rank, in a new run, needs less", []
    phrases = []
    for key, (value, less) in list(changes.items())[:SHOWN]:
        phrases.append(
            f"{key} = {toml.one_line(value)}" + (f" (-{less / 1e9:.2f} GB)" if less else "")
        )
    key, (value, _) = next(iter(changes.items()))
    return f"{how}: {', '.join(phrases)}", [f"{key}={toml.one_line(value)}"]


def _changes(config: Config, *stages: str) -> dict[str, tuple[Any, Config]]:
    """Changes that could lower any of the stages: key -> (value, the configuration with it)."""
    changes: dict[str, tuple[Any, Config]] = {}
    for key, (lowered, lower) in CHANGES.items():
        if lowered.isdisjoint(stages):
            continue
        table, _, name = key.partition(".")
        value = lower(getattr(getattr(config, table), name))
        changed = None if value is None else _changed(config, table, name, value)
        if changed is not None:
            changes[key] = value, changed
    return changes


def _changed(config: Config, table: str, name: str, value: Any) -> Config | None:
    tables = configuration.to_tables(config)
    tables[table][name] = value
    try:
        return configuration.parse(tables)
    except ConfigError:  # the model's family has no use for it
        return None

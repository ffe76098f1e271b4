"""The plan of a sweep: named runs from recipes, a grid of values and seeds, and their progress.

This module runs nothing: `plan` depends only on its arguments and the recipe files, `progress`
reads one folder, and `common.sweep.jobs` runs the tasks.
"""

import itertools
import json
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common import config as configuration
from common.config import Config
from common.errors import RequestError
from common.runs import checkpoint, line_log
from common.runs.directory import CONFIG, MAY_CHANGE, METRICS, RunDirectory

LONGEST_NAME = 200
"""Characters of a run's name; file systems take 255 bytes."""


class SweepError(RequestError):
    """A sweep that cannot be run; one line with the reason."""


@dataclass(frozen=True)
class Planned:
    """One run: its name (and folder), its recipe and `--set` values, and its configuration."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    config: Config

    def command(self, out: Path, *, backend: str | None, resume: bool) -> tuple[str, ...]:
        """The arguments of `drift` that start or resume this run in a folder."""
        words = ["run", self.recipe, "--out", str(out)]
        words += ["--resume"] if resume else []
        words += ["--backend", backend] if backend else []
        return (*words, *itertools.chain(*(("--set", text) for text in self.overrides)))


@dataclass(frozen=True)
class Progress:
    """The progress of a run. done: updates in its newest checkpoint, where a resume starts."""

    state: Literal["missing", "incomplete", "complete"]
    done: int = 0


def plan(
    recipes: Sequence[str],
    *,
    over: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    backend: str | None = None,
) -> list[Planned]:
    """All runs of a sweep: every recipe with every point of the grid, for every seed.

    The loop over seeds is the outermost, so an interrupted sweep has all methods for some seeds.
    A run is named after its recipe, every key of the grid and the seed, for example
    "emoji-kl-kl_weight=0.04-seed0": a key's name does not depend on the other keys, so an
    extended grid finds the runs that exist already.

    Args:
        recipes: shipped names or TOML files.
        over: the grid, "table.key=v1,v2,..." each. Values are read as the parts of a TOML array,
            so a value may be a list: "rollout.window_range=[0, 0.5],[0.5, 1]". Bare words may
            stand for text where none of the values has a comma in it.
        seeds: () means the seed of each recipe.
        overrides: "table.key=value", the same for all runs and not in their names.
        backend: of all runs; None leaves it to the recipe.

    Raises:
        SweepError: a key given twice, no or repeated values, two runs of one name.
        ConfigError: a recipe, key or value that is wrong.
    """
    grid = [_values(text) for text in over]
    _check_keys([key for key, _ in grid], overrides, backend)
    if repeated := _repeated(seeds):
        raise SweepError(f"--seeds: {repeated[0]} is there twice")
    everywhere = (*overrides, *([f"run.backend={backend}"] if backend else []))
    runs: list[Planned] = []
    for seed, recipe in itertools.product(seeds or (None,), recipes):
        for point in itertools.product(*(values for _, values in grid)):
            chosen = [f"{key}={v}" for (key, _), v in zip(grid, point, strict=True)]
            of_seed = [] if seed is None else [f"run.seed={seed}"]
            config = configuration.load(recipe, [*everywhere, *chosen, *of_seed])
            name = _name(config, [key for key, _ in grid])
            runs.append(Planned(name, recipe, (*overrides, *chosen, *of_seed), config))
    if repeated := _repeated([run.name for run in runs]):
        raise SweepError(f"two runs of this sweep would be called '{repeated[0]}'")
    return runs


def progress(planned: Planned, path: Path) -> Progress:
    """The progress of a planned run in its folder.

    Raises SweepError when the folder holds a run of another configuration, or one that is past
    the planned number of updates, and RunError when it is damaged or cannot be resumed.
    """
    if not (path / CONFIG).exists():
        return Progress("missing")
    run = RunDirectory.open(path)
    if changed := configuration.differences(run.config, planned.config, MAY_CHANGE):
        raise SweepError(
            f"{path} holds a run of another configuration: {'; '.join(changed)}; "
            "choose another --out, or the values it has"
        )
    newest = checkpoint.latest(run.checkpoints)
    done, updates = 0 if newest is None else int(newest.name), planned.config.run.updates
    if done > updates:
        raise SweepError(f"{path} is at update {done} already; run.updates = {updates} is less")
    # The report is written last; a report of a shorter run may exist, hence the other conditions.
    evaluated = [record["update"] for record in run.evaluations()]
    if done == updates and updates in evaluated and run.report.exists():
        return Progress("complete", done)
    run.check_resumable(planned.config)
    return Progress("incomplete", done)


def latest_metrics(path: Path) -> dict[str, Any]:
    """The newest complete row of a run's metrics, {} before the first; cheap enough to poll."""
    return line_log.newest(path / METRICS)


def _values(text: str) -> tuple[str, list[str]]:
    """The key of an `--over`, and each of its values as TOML."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"\w+\.\S+", key):
        raise SweepError(f"--over {text}: write table.key=v1,v2, as objective.kl_weight=0.01,0.04")
    try:
        values = [_literal(value) for value in tomllib.loads(f"values = [{raw}]")["values"]]
    except tomllib.TOMLDecodeError:
        values = [part.strip() for part in raw.split(",")]  # bare words; `--set` reads each
    if not values or "" in values:
        raise SweepError(f"--over {text}: a value is missing")
    return key, values


def _literal(value: Any) -> str:
    """A TOML value on one line. JSON writes text, numbers and lists in the same way."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {_literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False, default=str)


def _check_keys(keys: Sequence[str], overrides: Sequence[str], backend: str | None) -> None:
    fixed = [text.partition("=")[0].strip() for text in overrides]
    if "run.seed" in (*keys, *fixed):
        raise SweepError("run.seed is set by --seeds, as --seeds 0,1,2")
    if "run.recipe" in (*keys, *fixed):
        raise SweepError("run.recipe names the runs of a sweep and cannot be set for all of them")
    given = [*keys, *fixed, *(["run.backend"] if backend else [])]
    for key in keys:
        if given.count(key) > 1:
            raise SweepError(f"{key} is given by --over and once more")


def _name(config: Config, keys: Sequence[str]) -> str:
    tables = configuration.to_tables(config)
    words = [config.run.recipe]
    words += [f"{_short(key)}={_shown(_lookup(tables, key))}" for key in keys]
    # Characters that are special to a file system or a shell become underscores.
    name = re.sub(r"[^\w.=+-]+", "_", "-".join([*words, f"seed{config.run.seed}"])).lstrip(".")
    if len(name) > LONGEST_NAME:
        raise SweepError(
            f"a run would be called '{name[:40]}...', {len(name)} characters: "
            "put what the runs share into --set, or give long values in recipes of their own"
        )
    return name


def _short(key: str) -> str:
    """The shortest suffix of a dotted key that is unique among all keys."""
    parts = configuration.split_key(key)
    if parts[:2] == ["reward", "terms"] and len(parts) == 3:
        return parts[2]
    known = [known.split(".") for known in configuration.known_keys()]
    for length in range(1, len(parts)):
        if sum(other[-length:] == parts[-length:] for other in known) == 1:
            return ".".join(parts[-length:])
    return key


def _lookup(tables: dict[str, Any], key: str) -> Any:
    value: Any = tables
    for part in configuration.split_key(key):
        value = value[part]
    return value


def _shown(value: Any) -> str:
    """A value in a name, as short as possible but still exact."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list):
        return "+".join(map(_shown, value))
    if isinstance(value, dict):
        return "+".join(f"{name}={_shown(part)}" for name, part in value.items())
    return str(value)


def _repeated(values: Sequence[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]

"""The inputs: what is written to a folder of its own, and the command that reads it."""

import hashlib
import json
import os
import random
import shutil
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from common import config as configuration
from common.choices import PROGRAMS
from common.runs import checkpoint
from common.runs.checkpoint import Snapshot
from common.runs.directory import RunDirectory
from scripts.fuzz import damage

__all__ = ["KINDS", "SMALL", "make_base"]

SMALL = {
    "run.updates": 2,
    "run.backend": "cpu",
    "prompts.names": ["rose", "owl"],
    "rollout.prompts": 2,
    "rollout.group_size": 4,
    "rollout.steps": 3,
    "rollout.window": 0,
    "evaluate.images": 2,
    "evaluate.steps": 2,
    "checkpoint.every": 1,
    "optimizer.ema_decay": 0.5,
    "optimizer.ema_every": 1,
}

RUN = ("config.toml", "environment.json", "metrics.jsonl", "evaluations.jsonl")

EXPORTED = {
    "sd15-compressibility": "mid_block.attentions.0.proj_in",
    "flux-dev-pickscore-grpo": "x_embedder",
    "sd35m-24gb": "proj_out",
}
"""A module that is adapted, by the recipe of a run whose adapter is exported without its model."""

LARGE = 1 << 24
"""Bytes of a file that is left as it is: the sparse one that stands for an endless one."""

Words = list[str]


def make_base(folder: Path, *, measured: bool = True) -> None:
    """A finished run, which the inputs damage copies of, and adapters to export.

    measured: also evaluate the run, which takes longer than to train it.
    """
    from click.testing import CliRunner

    from common.cli import drift

    run = folder / "run"
    commands: list[tuple[Any, ...]] = [("run", *_sets(SMALL), "--out", run)]
    if measured:
        how = ("--split", "train", "--images", "2", "--steps", "2", "--cache", folder / "cache")
        commands.append(("eval", run, *how, "--checkpoint", "base", "--checkpoint", "2"))
    for words in commands:
        result = CliRunner().invoke(drift, [str(word) for word in words])
        if result.exit_code:
            raise RuntimeError(result.output)
    for recipe, module in EXPORTED.items():
        adapter = {"adapter.targets": [module], "adapter.rank": 2, "adapter.alpha": 4.0}
        config = configuration.load(recipe, adapter)
        made = RunDirectory.create(folder / recipe, config, {})
        b = np.ones((4, 2), dtype=np.float32)
        weights = {f"{module}.lora_A.weight": b.T.copy(), f"{module}.lora_B.weight": b}
        snapshot = Snapshot(1, weights, None, {"step": np.zeros(1)}, {})
        checkpoint.save(made.checkpoints, snapshot, adapter=config.adapter, keep=0)


def _sets(changes: dict[str, Any]) -> Words:
    return [word for key, value in changes.items() for word in ("--set", f"{key}={_shown(value)}")]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _used() -> dict[str, list[Any]]:
    """The values that the shipped recipes have, by key."""
    values: dict[str, list[Any]] = {key: [] for key in configuration.known_keys()}
    for recipe in configuration.recipe_names():
        tables = configuration.to_tables(configuration.load(recipe))
        for key, value in configuration.flatten(tables).items():
            if value not in values.setdefault(key, []):
                values[key].append(value)
    return values


def _likely(picker: random.Random, values: list[Any]) -> Any:
    """A value that some recipe has, or a number of another size."""
    value = picker.choice(values)
    if isinstance(value, int | float) and not isinstance(value, bool) and picker.random() < 0.6:
        return type(value)(value * picker.choice([-1, 0, 0.5, 2, 10, 1e3, 1e6, 1e12]))
    return value


def _settings(picker: random.Random, folder: Path, base: Path) -> Words:
    """One to three settings of the command line, of any key; most could be meant."""
    changes = dict(SMALL)
    used = _used()
    for _ in range(picker.randint(1, 3)):
        key = picker.choice(list(used))
        likely = used[key] and picker.random() < 0.75
        value = _likely(picker, used[key]) if likely else damage.value(picker)
        if picker.random() < 0.05:
            key = damage.text(picker, key.encode()).decode(errors="replace").replace("\x00", "")
        changes[key] = value
    return ["run", "--dry-run", *(word.replace("\x00", "") for word in _sets(changes))]


def _toml(picker: random.Random, folder: Path, base: Path) -> Words:
    """A recipe file, damaged as text or as tables."""
    source = (base / "run" / "config.toml").read_bytes()
    if picker.random() < 0.5:
        content = damage.text(picker, source)
    else:
        content = _toml_bytes(damage.document(picker, tomllib.loads(source.decode())), source)
    (folder / "recipe.toml").write_bytes(content)
    return ["run", "recipe.toml", "--dry-run"]


def _toml_bytes(tables: Any, otherwise: bytes) -> bytes:
    try:
        return tomli_w.dumps(tables).encode(errors="surrogatepass")
    except (TypeError, ValueError, AttributeError, RecursionError):  # TOML has no null
        return otherwise


def _prompts(picker: random.Random, folder: Path, base: Path) -> Words:
    """A file of prompts."""
    suffix = picker.choice(["txt", "jsonl", "csv"])
    lines = {
        "txt": "a red fox\nan owl in the snow\n# a comment\n\nrose\n",
        "jsonl": '{"prompt": "a fox", "text": "OPEN"}\n{"prompt": "owl", "include": [{"a": 1}]}\n',
        "csv": 'prompt,text\na fox,OPEN\n"an owl, in the snow",\n',
    }[suffix]
    (folder / f"prompts.{suffix}").write_bytes(damage.text(picker, lines.encode()))
    if picker.random() < 0.8:
        return ["prompts", f"prompts.{suffix}", *picker.choice([[], ["--json"], ["--limit", "1"]])]
    source = {**SMALL, "prompts.names": [], "prompts.source": f"prompts.{suffix}"}
    return ["run", "--dry-run", *_sets(source)]


def _checkpoint(picker: random.Random, folder: Path, base: Path) -> Words:
    """A checkpoint with damaged files; the manifest often has the hashes of the damaged ones."""
    run = picker.choice(["run", "run", *EXPORTED])
    shutil.copytree(base / run, folder / "run")
    newest = checkpoint.latest(folder / "run" / "checkpoints")
    assert newest is not None
    for _ in range(picker.randint(1, 2)):
        _damage_file(picker, picker.choice(sorted(newest.iterdir())))
    if picker.random() < 0.7:
        _sign(newest)
    if run != "run":
        return ["export", "run", "--to", picker.choice(PROGRAMS)]
    return picker.choice(
        [
            ["sample", "run", "--prompt", "rose", "--count", "1", "--out", "x.png"],
            ["run", "--resume", "--out", "run", "--set", "run.updates=3"],
            ["eval", "run", "--split", "train", "--images", "2", "--steps", "2", "--prompts", "1"],
        ]
    )


def _sign(folder: Path) -> None:
    """Make the manifest agree with the files."""
    entries = {}
    for file in folder.iterdir():
        known = file.is_file() and file.stat().st_size <= LARGE
        if known and file.name != checkpoint.MANIFEST:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries[file.name] = {"size": len(content), "sha256": digest}
    manifest: dict[str, Any] = {"format": checkpoint.FORMAT, "files": entries}
    text = json.dumps(manifest, sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(text).hexdigest()
    target = folder / checkpoint.MANIFEST
    if target.is_file() or not os.path.lexists(target):
        target.write_text(json.dumps(manifest))


def _damage_file(picker: random.Random, file: Path) -> None:
    """Another content in a file, or something else in its place."""
    if not file.is_file() or file.stat().st_size > LARGE:
        return
    kind = picker.randrange(10)
    content = file.read_bytes()
    if kind < 3:
        file.write_bytes(damage.text(picker, content))
    elif kind < 9 and (changed := _changed_values(picker, file.name, content)) is not None:
        file.write_bytes(changed)
    else:
        file.unlink()
        _in_place(picker, file)


def _in_place(picker: random.Random, file: Path) -> None:
    kind = picker.randrange(6)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    elif kind == 2:
        file.symlink_to("/dev/zero")
    elif kind == 3:
        file.symlink_to("nowhere")
    elif kind == 4:
        with file.open("wb") as empty:
            empty.truncate(3 << 30)  # sparse


def _changed_values(picker: random.Random, name: str, content: bytes) -> bytes | None:
    """The document of a file with other values; None for a file that is none."""
    try:
        return _structured(picker, name, content)
    except (ValueError, RecursionError):  # damaged before
        return None


def _structured(picker: random.Random, name: str, content: bytes) -> bytes | None:
    if name.endswith(".json"):
        return json.dumps(damage.document(picker, json.loads(content))).encode()
    if name.endswith(".jsonl"):
        records = [json.loads(line) for line in content.splitlines() if line]
        changed = damage.document(picker, records)
        records = changed if isinstance(changed, list) else [changed]
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    if name.endswith(".toml"):
        tables = tomllib.loads(content.decode())
        return _toml_bytes(damage.document(picker, tables), content)
    if name.endswith(".safetensors"):
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(damage.document(picker, json.loads(content[8 : 8 + size]))).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    return None


def _run(picker: random.Random, folder: Path, base: Path) -> Words:
    """The folder of a run, with damaged files, and a command that reads it."""
    shutil.copytree(base / "run", folder / "run")
    names = [*RUN, RUN[0], RUN[1], "evaluation/records.jsonl", "samples"]
    for _ in range(picker.randint(1, 2)):
        file = folder / "run" / picker.choice(names)
        if file.is_dir() and (inside := sorted(file.iterdir())):
            file = picker.choice(inside)
        _damage_file(picker, file)
    evaluated = ["--split", "train", "--images", "2", "--steps", "2", "--prompts", "1"]
    compared = ["compare", "run", "--split", "train", "--baseline", "emoji", "--replicas", "100"]
    return picker.choice(
        [
            ["run", "--resume", "--out", "run"],
            ["run", "--resume", "--out", "run", "--set", "run.updates=3"],
            ["sample", "run", "--prompt", "rose", "--count", "1", "--checkpoint", "base"],
            ["eval", "run", *evaluated, "--checkpoint", "base"],
            [*compared, "--out", "compared"],
            [*compared, "--json"],
            ["export", "run"],
            ["runs", "."],
            ["config", "seed", "--in", "run"],
        ]
    )


Make = Callable[[random.Random, Path, Path], Words]

KINDS: dict[str, tuple[int, Make]] = {
    "settings": (5, _settings),
    "toml": (4, _toml),
    "prompts": (8, _prompts),
    "checkpoint": (5, _checkpoint),
    "run": (4, _run),
}
"""Share and maker of each kind whose input is a command: (random, folder, base) -> its words."""

SERVED = "server"
"""The kind whose input is the body of a request, and its share."""

SERVED_SHARE = 6

"""A run that is killed and goes on ends with the bytes of one that was not: on this card."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.gpu_bench.context import Context

__all__ = ["resume"]

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from common.cli import main; main()"
SMALL = (
    *('prompts.names=["rose", "owl"]', "rollout.prompts=2", "rollout.steps=4", "rollout.window=0"),
    *("evaluate.images=2", "evaluate.steps=2", "evaluate.grid=2", "checkpoint.every=1"),
)
PATIENCE = 60.0


def resume(context: Context) -> dict[str, Any]:
    """The emoji recipe: one run in one go, one killed after its second checkpoint."""
    updates, group = context.pick((8, 24), (4, 8), (3, 4))
    changes = [*SMALL, f"run.updates={updates}", f"rollout.group_size={group}"]
    whole, killed = context.folder / "whole", context.folder / "killed"
    _end(_begin(context, whole, changes))
    process = _begin(context, killed, changes)
    reached = _kill_at(process, killed / "checkpoints" / "000002")
    _end(_begin(context, killed, [], "--resume"))
    digests = [_digest(path / "checkpoints" / f"{updates:06d}") for path in (whole, killed)]
    if digests[0] != digests[1]:
        differ = [name for name in digests[0] if digests[0][name] != digests[1].get(name)]
        raise RuntimeError(f"the resumed run differs in {', '.join(differ)}")
    return {"updates": updates, "killed_at": reached, "same_bytes": True, "sha256": digests[0]}


def _begin(context: Context, out: Path, changes: list[str], *words: str) -> subprocess.Popen[bytes]:
    sets = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-c", MAIN, "run", "--backend", context.backend, "--out", str(out)]
    return subprocess.Popen([*command, *sets, *words], cwd=ROOT)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"drift run ended with {process.returncode}")


def _kill_at(process: subprocess.Popen[bytes], checkpoint: Path) -> int:
    """Kill it when the checkpoint is there; the newest checkpoint that it left."""
    end = time.monotonic() + PATIENCE
    while not checkpoint.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"no checkpoint {checkpoint.name} to kill the run at")
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return max(int(path.name) for path in checkpoint.parent.iterdir() if path.name.isdigit())


def _digest(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of every file of numbers in a checkpoint."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(checkpoint.glob("*.safetensors"))
    }

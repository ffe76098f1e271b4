"""The machine, its software and the code that was measured.

Run as a module it prints what PyTorch says of the device, as JSON. It has a process of its own: a
process that asks PyTorch for a GPU keeps some of its memory until it ends.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["facts"]

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "triton", "numpy", "diffusers", "transformers", "accelerate", "peft", "mlx")
QUERY = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"


def facts() -> dict[str, Any]:
    """Processor, cores, driver, versions, commit and a hash of the sources."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
        "sources_sha256": _sources(),
        **_driver(),
    }


def device() -> dict[str, Any]:
    """PyTorch's version, and the device if there is one."""
    import torch

    result: dict[str, Any] = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "device": properties.name,
            "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
        }
    return result


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _driver() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = asked.stdout.splitlines()[0].split(", ")
    return dict(zip(QUERY.replace(".", "_").split(","), values, strict=False))


def _commit() -> str | None:
    """The commit of the checkout, with "+" where files were changed; None where git cannot say."""
    try:
        named = _git("rev-parse", "HEAD")
        return named + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return asked.stdout.strip()


def _sources() -> str:
    """SHA-256 over every Python file of the toolkit: it names the code where git cannot."""
    digest = hashlib.sha256()
    for folder in ("common", "drift_torch", "drift_mlx", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    print(json.dumps(device()))

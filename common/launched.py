"""What a launcher of several processes has put into the environment of this one."""

import json
import math
import os
from pathlib import Path

from common.errors import RequestError

__all__ = ["RANK", "SIZE", "patience", "rank", "size"]

RANK, SIZE = "RANK", "WORLD_SIZE"
"""Set by torchrun, accelerate and `drift run --processes`."""

MLX_RANK, MLX_HOSTS = "MLX_RANK", "MLX_HOSTFILE"
"""Set by mlx.launch and `drift run --processes`; the file lists the addresses of each process."""

TIMEOUT = "DRIFT_TIMEOUT"
"""Seconds that a process waits for another one."""


def rank() -> int:
    """The number of this process; 0 where no launcher started it."""
    texts = (os.environ.get(name, "") for name in (MLX_RANK, RANK))
    return next((int(text) for text in texts if text.isdecimal()), 0)


def size() -> int:
    """The number of processes that were started together; 1 where no launcher did."""
    if (text := os.environ.get(SIZE, "")).isdecimal():
        return int(text)
    try:
        return len(json.loads(Path(os.environ[MLX_HOSTS]).read_text(encoding="utf-8")))
    except (KeyError, OSError, ValueError, TypeError):
        return 1


def patience() -> float:
    """Seconds that a process waits for another one: half an hour, or what DRIFT_TIMEOUT says."""
    text = os.environ.get(TIMEOUT, "1800")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e7:
        raise RequestError(f"{TIMEOUT} = '{text}': valid is a number of seconds above 0")
    return seconds

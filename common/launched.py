"""What a launcher of several processes has put into the environment of this one."""

import math
import os
from pathlib import Path

from common import reading
from common.errors import RequestError

__all__ = ["RANK", "SIZE", "patience", "rank", "size"]

RANK, SIZE = "RANK", "WORLD_SIZE"
"""Set by torchrun, accelerate and `drift run --processes`."""

MLX_RANK, MLX_HOSTS = "MLX_RANK", "MLX_HOSTFILE"
"""Set by mlx.launch and `drift run --processes`; the file lists the addresses of each process."""

TIMEOUT = "DRIFT_TIMEOUT"
"""Seconds that a process waits for another one."""


def rank() -> int:
    """The number of this process; 0 where no launcher started several."""
    name = RANK if SIZE in os.environ else MLX_RANK
    text = os.environ.get(name, "0")
    count = size()
    if count > 1 and not (text.isdecimal() and int(text) < count):
        raise RequestError(f"{name} = '{text}': valid is a number below {count}, that of processes")
    return int(text) if count > 1 else 0


def size() -> int:
    """The number of processes that were started together; 1 where no launcher did.

    Raises RequestError where the environment says that a launcher started several, but not how
    many: each would train a run of its own.
    """
    if (text := os.environ.get(SIZE)) is not None:
        if not text.isdecimal() or int(text) < 1:
            raise RequestError(f"{SIZE} = '{text}': valid is the number of processes")
        return int(text)
    if MLX_RANK not in os.environ:
        return 1
    file = os.environ.get(MLX_HOSTS, "")
    try:
        return len(reading.json_document(reading.content(Path(file))))
    except (OSError, ValueError, TypeError):
        raise RequestError(
            f"{MLX_HOSTS} = '{file}': no list of hosts; start mlx.launch with --backend ring"
        ) from None


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

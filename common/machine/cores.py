"""How many CPU cores this process has."""

import os


def cores() -> int:
    """CPU cores that this process may use: fewer than there are in many containers."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

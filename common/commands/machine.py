"""Facts about this machine and this installation, for `drift doctor` and `environment.json`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from common.cores import cores as cores  # part of this module's interface

DISTRIBUTION = "drift-toolkit"


def installed(distribution: str) -> str | None:
    """The version of a distribution that is installed, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def facts() -> dict[str, str]:
    """Versions, system, cores and memory; every value as people write it."""
    return {
        "drift": installed(DISTRIBUTION) or "not installed (a bare checkout)",
        "python": platform.python_version(),
        "numpy": installed("numpy") or "not installed",
        "system": platform.platform(),
        "cores": str(cores()),
        "memory": f"{memory_bytes() / 2**30:.1f} GiB",
    }


def memory_bytes() -> int:
    """Physical memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0

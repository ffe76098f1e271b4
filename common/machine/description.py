"""Facts about this machine and this installation, for `drift doctor` and `environment.json`."""

import os
import platform
import re
import resource
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.machine.cores import cores

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
        "chip": chip(),
        "cores": str(cores()),
        "memory": f"{memory_bytes() / 2**30:.1f} GiB",
    }


def chip() -> str:
    """What the processor is called, as far as the system says."""
    with suppress(OSError, subprocess.SubprocessError):
        if platform.system() == "Darwin":
            asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            process = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
            return process.stdout.strip()
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if named := re.search(r"^model name\s*: *(.+)$", said, re.MULTILINE):
            return named[1].strip()
    return platform.processor() or platform.machine()


def resident_bytes() -> int:
    """Memory of this process now; where the system does not say, the most that it has had."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_bytes() -> int:
    """Physical memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0

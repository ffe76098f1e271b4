"""`drift --help` answers at once, since importing the command loads nothing heavy."""

import resource
import subprocess
import sys

HEAVY = ["numpy", "pydantic", "torch", "mlx", "matplotlib", "rich", "PIL", "jinja2"]


CODE = f"""
import atexit, sys
from common.cli import main
atexit.register(lambda: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))
main()
"""


def test_help_loads_nothing_heavy_and_takes_less_than_half_a_second():
    def spent() -> float:  # processor time: what others do on this machine does not count
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    words = [sys.executable, "-c", CODE, "--help"]
    help_call = subprocess.run(words, capture_output=True, text=True, check=True)
    assert spent() - before < 0.5
    assert help_call.stderr.strip() == "[]"
    assert "Usage: " in help_call.stdout

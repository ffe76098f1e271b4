"""`drift --help` answers at once, since importing the command loads nothing heavy."""

import resource
import subprocess
import sys

HEAVY = ["numpy", "pydantic", "torch", "mlx", "matplotlib", "rich", "PIL", "jinja2"]


def test_importing_the_command_loads_nothing_heavy():
    code = f"import sys, common.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_takes_less_than_half_a_second():
    def spent() -> float:  # processor time: what others do on this machine does not count
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    help_call = [sys.executable, "-c", "from common.cli import main; main()", "--help"]
    subprocess.run(help_call, stdout=subprocess.DEVNULL, check=True)
    assert spent() - before < 0.5

"""What a user waits for: `drift --help`, the first update of `drift run`, and `drift report`."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.peers.turns import Cost, costs

__all__ = ["AIMS", "waiting"]

AIMS = {"help": 0.2, "loading": 6.0, "first update": None, "report": 2.0}
"""Seconds; None is no aim: how long the base model is evaluated is the recipe's choice."""

SMALL = (
    *("run.updates=2", "rollout.prompts=2", "rollout.group_size=4"),
    *("evaluate.images=2", "evaluate.steps=4", "checkpoint.every=1"),
)

UNTIL = """
import os
from common import cli, trainer
trainer.Trainer.{method} = lambda self: os._exit(0)
cli.main()
"""
LOADING, FIRST_UPDATE = (UNTIL.format(method=name) for name in ("_evaluate_if_due", "step"))

COMMAND = "from common.cli import main; main()"


def waiting(rounds: int) -> dict[str, Any]:
    """Seconds of each of AIMS, in processes of their own; the recipe is `emoji`."""
    spent: dict[str, list[Cost]] = {name: [] for name in AIMS}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [word for text in SMALL for word in ("--set", text)]
        _spent(COMMAND, "run", "--backend", "cpu", "--out", str(run), *settings)
        for number in range(rounds + 1):
            start = ["run", "--backend", "cpu", "--out", str(Path(folder) / f"run{number}")]
            loading = [*start[:-1], str(Path(folder) / f"loading{number}")]
            costs_of_round = {
                "help": _spent(COMMAND, "--help"),
                "loading": _spent(LOADING, *loading),
                "first update": _spent(FIRST_UPDATE, *start),
                "report": _spent(COMMAND, "report", str(run)),
            }
            if number:
                for name, cost in costs_of_round.items():
                    spent[name].append(cost)
    return {name: costs(values) for name, values in spent.items()}


def _spent(code: str, *words: str) -> Cost:
    """The processor's and the wall's seconds of Python that runs the code with the words."""
    before, start = _children(), time.perf_counter()
    command = [sys.executable, "-c", code, *words]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"COLUMNS": "99"}
    )
    return Cost(_children() - before, time.perf_counter() - start)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(waiting(int(sys.argv[1])), indent=1))

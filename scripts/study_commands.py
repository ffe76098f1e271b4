"""What the parts of the study share: the commands they call, and where comparisons go."""

import shutil
import subprocess
import sys
from pathlib import Path

OFTEN = ("checkpoint.every=20", "evaluate.every=1000", "evaluate.prompts=4")

SCALED = ("--checkpoint", "latest", "--scale", 0.25, "--scale", 0.5, "--scale", 0.75)


def store(comparison: Path, results: Path, name: str) -> None:
    """Keep the JSON of a comparison with the project's results."""
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(comparison, results / f"{name}.json")


def changes(*settings: str) -> list[str]:
    """Settings as options of `drift sweep`."""
    return [word for setting in settings for word in ("--set", setting)]


def drift(*words: object) -> None:
    """Run the command; exit with its code if it fails."""
    command = [str(Path(sys.executable).with_name("drift")), *map(str, words)]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)

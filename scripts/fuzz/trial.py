"""One input: what it gave, how long it took, and how much memory."""

import base64
import io
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from scripts.fuzz import damage
from scripts.fuzz.inputs import KINDS, SERVED, SERVED_SHARE

__all__ = ["Outcome", "plan", "serving", "try_input"]

UNPLANNED = "(--debug shows the traceback)"
"""End of the line of an error that nobody wrote a text for."""

SECONDS, MEGABYTES = 60.0, 500.0
"""Most time and most memory beyond that before, for one input."""


@dataclass(frozen=True)
class Outcome:
    """What one input gave. fault: "" or why it is wrong; line: its error or the server's answer."""

    kind: str
    index: int
    fault: str
    line: str
    seconds: float
    megabytes: float
    words: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As a line of JSON."""
        return asdict(self)


def plan(count: int) -> list[tuple[str, int]]:
    """(kind, number within the kind) of `count` inputs; a larger count begins with a smaller."""
    shares = {kind: share for kind, (share, _) in KINDS.items()} | {SERVED: SERVED_SHARE}
    turn = [kind for kind, share in shares.items() for _ in range(share)]
    seen = dict.fromkeys(shares, 0)
    chosen = []
    for number in range(count):
        kind = turn[number % len(turn)]
        chosen.append((kind, seen[kind]))
        seen[kind] += 1
    return chosen


def try_input(kind: str, index: int, seed: int, base: Path, address: tuple[str, int]) -> Outcome:
    """Make the input and give it to the command or the server.

    Args:
        kind: one of KINDS, or SERVED.
        index: number of the input within its kind.
        seed: of all inputs.
        base: the folder that `make_base` filled.
        address: host and port of a reward server.
    """
    picker = random.Random(f"{seed} {kind} {index}")
    before, start = _memory(reset=True), time.perf_counter()
    if kind == SERVED:
        fault, line = _asked(_body(picker), address)
        words: tuple[str, ...] = ()
    else:
        with tempfile.TemporaryDirectory(prefix="drift-fuzz-") as folder, _inside(Path(folder)):
            words = tuple(KINDS[kind][1](picker, Path(folder), base))
            fault, line = _judged(_invoked(words))
    seconds, megabytes = time.perf_counter() - start, (_memory() - before) / 1e6
    if not fault and seconds > SECONDS:
        fault = f"took {seconds:.0f} s"
    if not fault and megabytes > MEGABYTES:
        fault = f"took {megabytes:.0f} MB"
    return Outcome(kind, index, fault, line, round(seconds, 2), round(megabytes), words)


def _invoked(words: tuple[str, ...]) -> Result:
    from common.cli import drift

    return CliRunner().invoke(drift, list(words))


def _judged(result: Result) -> tuple[str, str]:
    """What is wrong with the answer of a command, or "", and its line."""
    lines = result.stderr.splitlines()
    said = [line for line in lines if not line.startswith("drift: warning: ")]
    line = said[-1] if said else ""
    if not (result.exception is None or isinstance(result.exception, SystemExit)):
        return f"raised {type(result.exception).__name__}: {result.exception}"[:300], line
    if any(not (c.isprintable() or c == "\n") for c in result.stderr):
        return "printed a control character", ascii(line)
    if result.exit_code == 0:
        return ("printed lines without failing", line) if said else ("", "")
    if result.exit_code not in (1, 2):
        return f"ended with {result.exit_code}", line
    if line.startswith("Error: ") and said[0].startswith("Usage: "):  # click refused the words
        return "", line
    if len(said) != 1 or not line.startswith("drift: ") or len(line) > 2100:
        return f"printed {len(said)} lines", line
    return ("no text for this error" if line.endswith(UNPLANNED) else ""), line


# --- the reward server ---------------------------------------------------------------------------


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """A reward server in a thread; host and port."""
    from common.rewards.registry import NamedReward
    from common.rewards.server import RewardServer

    server = RewardServer(NamedReward("mean", lambda images, *_: images.mean(axis=(1, 2, 3))))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host, port = server.url.removeprefix("http://").split(":")
    try:
        yield host, int(port)
    finally:
        server.shutdown()
        thread.join(30)


def _body(picker: random.Random) -> bytes:
    size = picker.choice([(2, 2), (8, 8), (1, 4096), (4096, 4096), (20000, 20000)])
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).resize(size if max(size) < 9000 else (9, 9)).save(
        png, picker.choice(["PNG", "PNG", "PNG", "JPEG", "GIF"])
    )
    data = png.getvalue()
    if picker.random() < 0.5:
        data = damage.text(picker, data)
    one = base64.b64encode(data).decode()
    number = picker.choice([1, 1, 2, 20])
    message = {"images": [one] * number, "prompts": ["rose"] * number, "metadata": [{}] * number}
    if picker.random() < 0.5:
        message = damage.document(picker, message)
    body = json.dumps(message).encode()
    return damage.text(picker, body) if picker.random() < 0.4 else body


def _asked(body: bytes, address: tuple[str, int]) -> tuple[str, str]:
    link = HTTPConnection(*address, timeout=SECONDS)
    try:
        link.request("POST", "/v1/score", body)
        answer = link.getresponse()
        text = answer.read()
    except (HTTPException, OSError) as error:
        return f"no answer: {type(error).__name__}: {error}", ""
    finally:
        link.close()
    shown = text[:300].decode(errors="replace")
    fault = "" if answer.status in (200, 400, 413) else f"status {answer.status}"
    return fault, f"{answer.status} {shown}"


# --- the machine ---------------------------------------------------------------------------------


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """A context in a folder that is the home too, so that nothing is written elsewhere."""
    before, home = Path.cwd(), os.environ.get("XDG_CONFIG_HOME")
    os.chdir(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / "home")
    try:
        yield
    finally:
        os.chdir(before)
        if home is None:
            del os.environ["XDG_CONFIG_HOME"]
        else:
            os.environ["XDG_CONFIG_HOME"] = home


def _memory(*, reset: bool = False) -> float:
    """The largest resident memory since the last reset, in bytes; 0 where the system has no say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return float(status.split("VmHWM:")[1].split()[0]) * 1024

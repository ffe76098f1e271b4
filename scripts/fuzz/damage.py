"""Damage to bytes and documents, the same for the same random generator."""

import copy
import json
import random
from typing import Any

__all__ = ["VALUES", "document", "nested", "text", "value"]

TOKENS = (
    b"[", b"]", b"{", b"}", b'"', b"'", b",", b"=", b":", b"\n", b"\r", b"\x00", b"\xff", b"\x0c",
    b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"1e400", b"-1e400", b"nan", b"inf", b"null", b"true",
    b"-1", b"0", b"99999999999999999999", b"../../x", b"/dev/zero", b"\x1b]0;X\x07",
    b"\xe2\x80\xa8",
    b"[" * 200, b"{\"a\":" * 200, b"a" * 5000, b"# ", b"evil:reward", b"\xf0\x9f\x98\x80",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, 7, -1, 0.5, -0.5, 1e-320, 1e308, float("inf"), float("-inf"),
    float("nan"), 2**31, 2**53, 2**63, 10**30, "", " ", "x", "1", "nan", "auto", "none", "a" * 3000,
    "\ud800", "\x1b]0;X\x07", "a\nb", "../../x", "/dev/zero", "/", ".", "evil:reward", "os:system",
    "emoji", "\N{GRINNING FACE}", [], [[]], {}, {"a": 1}, ["x"], [1, 2], [0.1, 0.9], [1] * 2000,
)  # fmt: skip


def value(picker: random.Random) -> Any:
    """A value that few readers expect."""
    if picker.random() < 0.03:
        return nested(picker.choice([20, 70, 500]))
    return copy.deepcopy(picker.choice(VALUES))


def nested(depth: int) -> list[Any]:
    """A list within a list, and so on."""
    outer: list[Any] = []
    inner = outer
    for _ in range(depth):
        inner.append([])
        inner = inner[0]
    return outer


def text(picker: random.Random, data: bytes) -> bytes:
    """One to six edits of a file: changed, lost, doubled and foreign bytes, lines out of order."""
    content = bytearray(data)
    for _ in range(picker.randint(1, 6)):
        at = picker.randrange(len(content) + 1)
        kind = picker.randrange(9)
        if kind == 0 and content:
            content[min(at, len(content) - 1)] = picker.randrange(256)
        elif kind == 1:
            del content[at : at + picker.randint(1, 80)]
        elif kind == 2:
            content[at:at] = content[at : at + picker.randint(1, 80)]
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            lines = bytes(content).split(b"\n")
            picker.shuffle(lines)
            content = bytearray(b"\n".join(lines))
        elif kind == 5 and picker.random() < 0.2:
            content = bytearray(picker.choice([b"", b"\x00" * len(content)]))
        else:
            content[at:at] = picker.choice(TOKENS)
    return bytes(content)


def document(picker: random.Random, known: Any) -> Any:
    """A copy of a JSON document in which one to three values are others, lost or new."""
    changed = json.loads(json.dumps(known))
    for _ in range(picker.randint(1, 3)):
        places = _places(changed)
        if not places:
            return value(picker)
        holder, key = picker.choice(places)
        kind = picker.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}x"] = value(picker)
        else:
            holder[key] = value(picker)
    return changed


def _places(known: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    places, waiting = [], [known]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict | list):
            continue
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            waiting.append(part[key])
    return places

"""Asking the Hugging Face hub: at once without it where it is out of reach, and without many lines.

Its client tries each request six times, half a minute in all, and writes a line about each try.
"""

import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["asked", "out_of_reach"]

SECONDS = 5.0
"""How long the hub may take to accept a connection."""


@contextmanager
def asked(name: str) -> Iterator[None]:
    """Within it the hub's client writes no lines; where the hub is out of reach, it is offline.

    Offline it takes what is in its cache, and raises what `out_of_reach` knows otherwise. Where
    `name` is a file or a folder of this machine, the hub is not asked and nothing changes.
    """
    if Path(name).expanduser().exists():
        yield
        return
    from huggingface_hub import constants

    log = logging.getLogger("huggingface_hub")
    level, offline = log.level, constants.HF_HUB_OFFLINE
    log.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or not _accepts(constants.ENDPOINT)
    try:
        yield
    finally:
        log.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def out_of_reach(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that the hub cannot be reached."""
    from huggingface_hub import errors

    kinds = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return False
        if isinstance(seen, kinds):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _accepts(address: str) -> bool:
    """Whether a connection to the hub can be made; also True behind a proxy, which is not asked."""
    if urllib.request.getproxies():
        return True
    place = urlsplit(address)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((str(place.hostname), port), timeout=SECONDS).close()
    except OSError:
        return False
    return True

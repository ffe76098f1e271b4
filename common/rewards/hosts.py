"""Which machines a remote reward may be on.

A recipe, or the configuration in the folder of a run, may come from somebody else. It may not
choose where images, prompts and a token are sent: the user does, on the command line or in the
environment. This machine itself (loopback) is always allowed.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from common.config import Overrides

HOSTS = "DRIFT_REWARD_HOSTS"
"""Environment variable: HOST or HOST:PORT of each machine that is allowed, between commas."""

WRITE = "write http://HOST:PORT"


@dataclass(frozen=True)
class Address:
    """The address of a server. port: None means any."""

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a name or an address stands for this machine and cannot be reached from others."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse(url: str) -> tuple[SplitResult, Address]:
    """The parts of a server's URL, and its address. Raises ValueError for another URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(WRITE) from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(WRITE)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{WRITE}, without a user, a query or a fragment")
    if not re.fullmatch(r"[!-~]*", parts.path):
        raise ValueError(f"{WRITE}, in ASCII")
    default = 443 if parts.scheme == "https" else 80
    return parts, _address(parts, default)


def listed(urls: str) -> list[str]:
    """The URLs of a text that has commas or spaces between them."""
    return [url for url in re.split(r"[,\s]+(?=https?://)", urls.strip()) if url]


@contextmanager
def named_in(overrides: Overrides) -> Iterator[None]:
    """Within it, servers are allowed that `--set reward.options.NAME.url=...` names.

    They are added to the environment variable, so that processes started within it know them too.
    """
    before = os.environ.get(HOSTS)
    if addresses := {str(address) for address in _in_overrides(overrides)}:
        os.environ[HOSTS] = ",".join(filter(None, [before, *sorted(addresses)]))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(HOSTS, None)
        else:
            os.environ[HOSTS] = before


def check(address: Address) -> None:
    """Raise ValueError, with the setting to add, for a machine that the user has not named."""
    if is_loopback(address.host):
        return
    for allowed in _in_environment():
        if allowed.host == address.host and allowed.port in (None, address.port):
            return
    raise ValueError(
        "this is another machine, and a file alone may not choose where images and tokens are "
        f"sent: if you trust it, set the environment variable {HOSTS}={address}, or give the url "
        "to `drift run` with --set"
    )


def _in_overrides(overrides: Overrides) -> Iterator[Address]:
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={value}" for key, value in overrides.items()]
    for text in overrides:
        key, _, value = text.partition("=")
        key = key.strip()
        if key.startswith("reward.options.") and key.endswith(".url"):
            for url in listed(value.strip().strip("\"'")):
                try:
                    yield parse(url)[1]
                except ValueError:
                    continue  # the reward itself refuses it, and says why


def _in_environment() -> Iterator[Address]:
    for entry in re.split(r"[,\s]+", os.environ.get(HOSTS, "")):
        if not entry:
            continue
        try:
            parts = urlsplit(f"//{entry}")
            if parts.netloc != entry or parts.username is not None:
                raise ValueError(entry)
            yield _address(parts, None)
        except ValueError:
            raise ValueError(f"{HOSTS}: {entry!r} is not HOST or HOST:PORT") from None


def _address(parts: SplitResult, default: int | None) -> Address:
    host = parts.hostname or ""
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{WRITE}, with a port from 1 to 65535") from None
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host):
        raise ValueError(WRITE)
    return Address(host, default if port is None else port)

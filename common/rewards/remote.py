"""A reward in another process or on another machine: the client of `drift rewards serve`.

After a broken connection or an incomplete answer the client tries again for a while, so that a
server can be restarted during a run; it waits for a busy server; any other answer is final. A
failure is an error, never a guessed score. Every call has a total deadline and a limit for the size
of its answer.
"""

import http.client
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any
from urllib.parse import SplitResult

import numpy as np

from common import launched
from common.backends import Backend
from common.config.types import AboveZero, NonNegative, key
from common.rewards import hosts, wire
from common.rewards.guard import RewardError
from common.rewards.registry import RewardNameError, register
from common.rewards.spec import Options

TOKEN = "DRIFT_REWARD_TOKEN"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the second try, doubled at each, and at most."""

FIRST_CONTACT = 1.0
"""Seconds that a server which has never answered is tried, where `retry_for` is longer."""

CONNECT = 10.0
"""Seconds that a connection may take, where `timeout` is longer."""


class RemoteOptions(Options):
    """Options of `remote`."""

    url: str = key(
        "http://127.0.0.1:8765",
        "where `drift rewards serve` listens; of several, with commas between, each process of "
        "a run asks one, by its number",
    )
    token_env: str = key(
        TOKEN,
        "environment variable that holds the token, which no file keeps: DRIFT_...",
        pattern=r"^DRIFT_[A-Z0-9_]+$",
    )
    timeout: AboveZero = key(120.0, "seconds that one request may take, from its first byte on")
    retry_for: NonNegative = key(60.0, "seconds to try again after a connection that failed")
    patience: NonNegative = key(300.0, "seconds to wait for a server that is busy")


@register(
    "remote",
    range="that of the reward served",
    description="a reward that another process or machine serves over HTTP",
    device="remote",
    batch_size=16,
    options=RemoteOptions,
)
def remote(backend: Backend, options: RemoteOptions) -> "RemoteReward":
    """The client; asks the server what it serves."""
    try:
        return RemoteReward(options)
    except RewardError as error:
        raise RewardNameError(str(error)) from error


class _Passing(Exception):  # noqa: N818  # never leaves this module
    """A failure that may pass: worth another try."""


class _Busy(Exception):  # noqa: N818
    """The server has too many requests now."""


class RemoteReward:
    """Calls a server; version, exactness and grouping are those of the reward it serves."""

    def __init__(self, options: RemoteOptions) -> None:
        """Raises RewardError when the server does not answer, or the user has not named it."""
        self._url, self._parts, self._address = _own_server(options.url)
        self._options = options
        first = min(options.retry_for, FIRST_CONTACT)
        answer = self._ask("GET", wire.INFO, b"", wire.ANSWER_BYTES, retry_for=first)
        info = self._wire(wire.read_info, answer)
        self.served = str(info["name"])
        self.version = str(info.get("version") or "")
        self.exact = bool(info.get("exact"))
        self.groupwise = bool(info.get("groupwise"))

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N], NaN where the server's reward was not finite; RewardError."""
        body = self._wire(lambda _: wire.request(images, prompts, metadata), b"")
        most = wire.ANSWER_BYTES + wire.SCORE_BYTES * len(images)
        answer = self._ask("POST", wire.SCORE, body, most, retry_for=self._options.retry_for)
        return self._wire(
            lambda b: wire.read_response(b, len(images), self.served, self.version), answer
        )

    def _ask(self, method: str, path: str, body: bytes, most: int, *, retry_for: float) -> bytes:
        """The body of an answer, after one or several tries.

        most: bytes of the answer. retry_for: seconds to go on after a failure.
        """
        options, start, pause = self._options, time.monotonic(), FIRST_PAUSE
        tries, failing = 0, start
        while True:
            try:
                return self._once(method, path, body, most)
            except _Passing as error:
                now = time.monotonic()
                failing, tries = (failing if tries else now), tries + 1
                if now >= failing + retry_for:
                    text = f"{tries} tries in {now - failing:.0f} s" if tries > 1 else "1 try"
                    raise RewardError(f"{self._url}: {error} ({text})") from error.__cause__
                time.sleep(min(pause, failing + retry_for - now))
            except _Busy:
                tries = 0
                waited = time.monotonic() - start
                if waited + pause > options.patience:
                    raise RewardError(
                        f"{self._url}: busy for {waited:.0f} s (patience = {options.patience:g})"
                    ) from None
                time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _once(self, method: str, path: str, body: bytes, most: int) -> bytes:
        headers = {"Content-Type": "application/json", "Connection": "close", **self._token()}
        kind = http.client.HTTPConnection
        if self._parts.scheme == "https":
            kind = http.client.HTTPSConnection
        timeout = self._options.timeout
        link = kind(self._address.host, self._address.port, timeout=min(timeout, CONNECT))
        with closing(link):
            try:
                link.connect()
            except (OSError, ValueError) as error:
                raise _Passing(f"no connection: {type(error).__name__}: {error}") from error
            with _Deadline(link.sock, timeout) as deadline:
                try:
                    link.request(method, self._parts.path.rstrip("/") + path, body, headers)
                    status, content = _read(link, most)
                except (http.client.HTTPException, OSError) as error:
                    raise self._failure(error, late=deadline.passed) from error
            if deadline.passed and len(content) <= most:
                raise self._failure(TimeoutError(), late=True)
        if len(content) > most:
            raise RewardError(f"{self._url}: the answer has more than {most} bytes")
        return self._judged(status, content)

    def _token(self) -> dict[str, str]:
        """The header with the token, where there is one."""
        variable = self._options.token_env
        if not (token := os.environ.get(variable)):
            return {}
        self._wire(lambda _: wire.check_token(token, variable), b"")
        return {"Authorization": f"Bearer {token}"}

    def _failure(self, error: Exception, *, late: bool) -> Exception:
        """The exception for a connection that failed after it was made."""
        if late or isinstance(error, TimeoutError):
            seconds = self._options.timeout
            return RewardError(f"{self._url}: no answer in {seconds:g} s (timeout)")
        if isinstance(error, http.client.IncompleteRead):
            return _Passing("half an answer")
        return _Passing(f"no connection: {type(error).__name__}: {wire.one_line(str(error))}")

    def _judged(self, status: int, content: bytes) -> bytes:
        if status == 200:
            return content
        if status == 503:
            raise _Busy
        # 408: the body came too slowly. The others are a proxy's, of a server that is on its way.
        if status in (408, 502, 504):
            raise _Passing(f"status {status}")
        if status == 401:
            raise RewardError(
                f"{self._url}: the token is wrong or missing; the client takes it from "
                f"the environment variable {self._options.token_env}"
            )
        raise RewardError(f"{self._url}: status {status}: {_said(content)}")

    def _wire(self, read: Any, body: bytes) -> Any:
        try:
            return read(body)
        except wire.WireError as error:
            raise RewardError(f"{self._url}: {error}") from None


def _own_server(urls: str) -> tuple[str, SplitResult, hosts.Address]:
    """The server that this process asks: its URL, the parts of that, and its address.

    Raises RewardError for any that is no URL, or that the user has not named.
    """
    servers = []
    for url in hosts.listed(urls) or [urls]:
        try:
            parts, address = hosts.parse(url)
            hosts.check(address)
        except ValueError as error:
            raise RewardError(f"url = {url!r}: {error}") from None
        servers.append((url, parts, address))
    if (idle := len(servers) - launched.size()) > 0 and launched.rank() == 0:
        names = ", ".join(url for url, *_ in servers[-idle:])
        warnings.warn(f"each process asks one server: nobody asks {names}", stacklevel=4)
    return servers[launched.rank() % len(servers)]


class _Deadline:
    """A context manager that closes a connection at a deadline, even while bytes still arrive."""

    def __init__(self, link: socket.socket, seconds: float) -> None:
        self.passed = False
        self._link = link
        link.settimeout(seconds)
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.passed = True
        with suppress(OSError):  # that of a TLS socket would send and wait
            socket.socket.shutdown(self._link, socket.SHUT_RDWR)


def _read(link: http.client.HTTPConnection, most: int) -> tuple[int, bytes]:
    """Status and body of an answer; of a body that is longer, the first `most` + 1 bytes."""
    with link.getresponse() as answer:
        content = answer.read(most + 1)
        if len(content) <= most and answer.length:
            raise http.client.IncompleteRead(content)
        return answer.status, content


def _said(content: bytes) -> str:
    try:
        text = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = content[:200].decode(errors="replace")
    return wire.one_line(text) or "no reason given"

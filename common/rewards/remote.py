"""A reward that runs elsewhere: the client of `drift rewards serve`.

A failure is told, never guessed: what may pass (a connection that breaks, half an answer) is
tried again a few times; a busy server is waited for; what the server says of a request or of its
scorer is final.
"""

import http.client
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from common.backends import Backend
from common.config.types import AboveZero, NonNegative, key
from common.rewards import wire
from common.rewards.guard import RewardError
from common.rewards.registry import RewardNameError, register
from common.rewards.spec import Options

TOKEN = "DRIFT_REWARD_TOKEN"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the second try, doubled at each, and at most."""


class RemoteOptions(Options):
    """What a remote reward can be told."""

    url: str = key("http://127.0.0.1:8765", "where `drift rewards serve` listens")
    token_env: str = key(TOKEN, "environment variable that holds the token, which no file keeps")
    timeout: AboveZero = key(120.0, "seconds that the server may take for one request")
    retries: int = key(3, "more tries after a connection that failed", ge=0, le=100)
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
    """A failure that another try may not meet."""


class _Busy(Exception):  # noqa: N818
    """The server has no place now."""


class RemoteReward:
    """Calls a server; version, exactness and grouping are those of the reward it serves."""

    def __init__(self, options: RemoteOptions) -> None:
        """Raises RewardError when there is no such server."""
        parts = urlsplit(options.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RewardError(f"url = '{options.url}': write http://HOST:PORT")
        self._options, self._parts = options, parts
        info = self._wire(wire.read_info, self._ask("GET", wire.INFO, b""))
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
        answer = self._ask("POST", wire.SCORE, body)
        return self._wire(lambda b: wire.read_response(b, len(images)), answer)

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        """The body of an answer, after as many tries as it takes and is allowed."""
        options = self._options
        failures, pause, since = 0, FIRST_PAUSE, time.monotonic()
        while True:
            try:
                return self._once(method, path, body)
            except _Passing as error:
                failures += 1
                if failures > options.retries:
                    tries = f"{failures} tries" if failures > 1 else "1 try"
                    raise RewardError(f"{options.url}: {error} ({tries})") from error.__cause__
            except _Busy:
                waited = time.monotonic() - since
                if waited + pause > options.patience:
                    raise RewardError(
                        f"{options.url}: busy for {waited:.0f} s (patience = {options.patience:g})"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _once(self, method: str, path: str, body: bytes) -> bytes:
        kind = http.client.HTTPConnection
        if self._parts.scheme == "https":
            kind = http.client.HTTPSConnection
        timeout = self._options.timeout
        link = kind(str(self._parts.hostname), self._parts.port, timeout=timeout)
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get(self._options.token_env):
            headers["Authorization"] = f"Bearer {token}"
        try:
            link.request(method, self._parts.path.rstrip("/") + path, body, headers)
            answer = link.getresponse()
            content = answer.read()
        except TimeoutError as error:
            raise RewardError(
                f"{self._options.url}: no answer in {timeout:g} s (timeout)"
            ) from error
        except http.client.IncompleteRead as error:
            raise _Passing("half an answer") from error
        except (http.client.HTTPException, OSError) as error:
            raise _Passing(f"no connection: {type(error).__name__}: {error}") from error
        finally:
            link.close()
        return self._judged(answer.status, content)

    def _judged(self, status: int, content: bytes) -> bytes:
        if status == 200:
            return content
        if status == 503:
            raise _Busy
        if status in (502, 504):  # a proxy's, of a server that is on its way
            raise _Passing(f"status {status}")
        if status == 401:
            raise RewardError(
                f"{self._options.url}: the token is wrong or missing; the client takes it from "
                f"the environment variable {self._options.token_env}"
            )
        raise RewardError(f"{self._options.url}: status {status}: {_said(content)}")

    def _wire(self, read: Any, body: bytes) -> Any:
        try:
            return read(body)
        except wire.WireError as error:
            raise RewardError(f"{self._options.url}: {error}") from None


def _said(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(content[:200].decode(errors="replace").split()) or "no reason given"

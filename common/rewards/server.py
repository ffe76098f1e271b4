"""Serving a reward over HTTP, so that it may run on another machine or in another environment.

One request is scored at a time, in the order in which they came; few may wait, and others are
told to come again: a client then waits, instead of the server's memory.
"""

import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.rewards import guard, wire
from common.rewards.registry import NamedReward

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RewardServer(ThreadingHTTPServer):
    """Listens as soon as it is made; `serve_forever` answers.

    Raises ValueError for an address that others can reach without a token, and OSError when it
    cannot be listened at.
    """

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(
        self,
        reward: NamedReward,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        waiting: int = 16,
        timeout: float = 300.0,
    ) -> None:
        """waiting: requests that may wait or be scored. timeout: seconds of a call or a read."""
        if host not in LOOPBACK and not token:
            raise ValueError(f"host {host} can be reached from outside: that needs a token")
        self.reward, self.token, self.seconds = reward, token, timeout
        self.places = threading.BoundedSemaphore(waiting)
        self.turn = threading.Lock()
        self.scored = 0
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def info(self) -> dict[str, Any]:
        """What is told of the reward."""
        spec = self.reward.spec
        return {
            "name": self.reward.name,
            "version": f"{self.reward.version} {self.reward.identity}" if spec else "",
            "range": spec.range if spec else "",
            "licence": spec.licence if spec else "",
            "exact": self.reward.exact,
            "groupwise": self.reward.groupwise,
        }

    def score(self, body: bytes) -> bytes:
        """The answer to the body of a request; raises WireError and RewardError."""
        images, prompts, metadata = wire.read_request(body)
        with self.turn:
            scores = guard.score(
                self.reward,
                images,
                prompts,
                metadata,
                timeout=self.seconds,
                on_error="drop",  # what is not finite is the client's to judge
                describe=lambda n: f"prompt '{prompts[n]}', image {n} of the request",
            )
            self.scored += len(scores)
        return wire.response(scores)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.seconds)

    def do_GET(self) -> None:  # the name is the library's
        if not self._allowed():
            return
        if self.path != wire.INFO:
            self._answer(404, _error(f"no {self.path}; there are {wire.INFO} and {wire.SCORE}"))
            return
        self._answer(200, json.dumps(self.server.info()).encode())

    def do_POST(self) -> None:
        if not self._allowed():
            return
        if self.path != wire.SCORE:
            self._answer(404, _error(f"no {self.path}; there are {wire.INFO} and {wire.SCORE}"))
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > wire.LARGEST:
            self._answer(413, _error(f"a request has at most {wire.LARGEST} bytes, and says so"))
            return
        # Whoever has no place is told before its images are read.
        if not self.server.places.acquire(blocking=False):
            self._answer(503, _error("too many requests are waiting"), retry_after=True)
            return
        try:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
                return
            self._answer(*self._scored(body))
        finally:
            self.server.places.release()

    def _scored(self, body: bytes) -> tuple[int, bytes]:
        try:
            return 200, self.server.score(body)
        except wire.WireError as error:
            return 400, _error(str(error))
        except guard.RewardError as error:
            return 500, _error(str(error))

    def _allowed(self) -> bool:
        if not self.server.token:
            return True
        given = self.headers.get("Authorization", "").encode()
        if hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            return True
        self._answer(401, _error("the token is wrong or missing"))
        return False

    def _answer(self, status: int, body: bytes, *, retry_after: bool = False) -> None:
        if status != 200:
            self.close_connection = True  # its body may not have been read
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        if retry_after:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each request would be thousands."""


def _error(text: str) -> bytes:
    return json.dumps({"error": " ".join(text.split())}).encode()

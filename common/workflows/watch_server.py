"""Serves the live page of runs over HTTP.

It needs no library, and it is made for few readers: one request for each connection, at most
MOST at a time, each within its time. Only three kinds of addresses are answered, none of which
names a file.
"""

import hmac
import re
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from common.rewards.hosts import Address, is_loopback
from common.workflows.watch import Watched

__all__ = ["WatchServer"]

MOST = 32
"""Connections at a time; the next ones are closed at once."""

SECONDS, ANSWER_SECONDS = 10.0, 60.0
"""For a request to be said, and for its answer to be taken."""

HEAD = 16_384
"""Bytes of a request; it has no body."""

COOKIE = "drift-watch"

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
)
PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; "
    "frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Answer:
    """Status, content and headers of an answer."""

    status: HTTPStatus
    content: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class WatchServer(socketserver.ThreadingTCPServer):
    """The server: it listens once it is made; `serve_forever` answers until `shutdown`.

    Raises ValueError for an address that others can reach without a token, and OSError where it
    cannot be listened at.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = MOST

    def __init__(self, watched: Watched, *, host: str, port: int, token: str = "") -> None:
        """token: what a reader must give; "" = nothing, which only loopback allows."""
        if not is_loopback(host) and not token:
            raise ValueError(f"host {host} can be reached from outside: that needs a token")
        self.watched, self._token, self._host = watched, token.encode(), host
        self._places = threading.BoundedSemaphore(MOST)
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), Exchange)

    @property
    def url(self) -> str:
        """The address to open in a browser, with the token."""
        address = f"http://{Address(self._host, self.server_address[1])}/"
        return f"{address}?token={self._token.decode()}" if self._token else address

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether there is a place for one more connection."""
        return self._places.acquire(blocking=False)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Start a thread for it; where none can be started, its place is free again."""
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Answer in a thread, and free the place."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a reader that left is no news."""

    def answer(self, head: bytes) -> Answer:
        """The answer to a request."""
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Answer(HTTPStatus.BAD_REQUEST, b"this is no request of HTTP")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if words[0] != "GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET", headers={"Allow": "GET"})
        try:
            target = urlsplit(words[1])
        except ValueError:
            return Answer(HTTPStatus.BAD_REQUEST, b"this is no address")
        if refusal := self._refusal(headers, target.path, target.query):
            return refusal
        return self._content(target.path)

    def _refusal(self, headers: Mapping[str, str], path: str, query: str) -> Answer | None:
        """An answer without content, for a reader who has no token, or no right name for this."""
        if not self._token:
            # A page elsewhere may give its own name this address: the browser then says that name.
            name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            if is_loopback(name):
                return None
            return Answer(HTTPStatus.FORBIDDEN, b"open it by the address that drift watch printed")
        cookies = re.findall(rf"(?:^|;)\s*{COOKIE}=([\w-]*)", headers.get("cookie", ""))
        if any(hmac.compare_digest(cookie.encode(), self._token) for cookie in cookies):
            return None
        given = parse_qs(query).get("token", [""])[0].encode()
        if path == "/" and hmac.compare_digest(given, self._token):
            cookie = f"{COOKIE}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
            return Answer(HTTPStatus.SEE_OTHER, headers={"Location": "/", "Set-Cookie": cookie})
        return Answer(HTTPStatus.UNAUTHORIZED, b"open it by the address that drift watch printed")

    def _content(self, path: str) -> Answer:
        html = "text/html; charset=utf-8"
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            policy = {"Content-Security-Policy": PAGE_POLICY.format(nonce)}
            return Answer(HTTPStatus.OK, self.watched.index(nonce), html, policy)
        if path == "/state":
            return Answer(HTTPStatus.OK, self.watched.state(), "application/json")
        number = re.fullmatch(r"/run/(\d{1,5})", path)
        if number and int(number[1]) < len(self.watched.runs):
            policy = {"Content-Security-Policy": REPORT_POLICY}
            return Answer(HTTPStatus.OK, self.watched.report(int(number[1])), html, policy)
        return Answer(HTTPStatus.NOT_FOUND, b"no such page")


class Exchange(socketserver.BaseRequestHandler):
    """One request and its answer."""

    def handle(self) -> None:
        """Read the head within its time, and answer it."""
        head = self._head()
        if head is None or not isinstance(self.server, WatchServer):
            return
        try:
            answer = self.server.answer(head)
        except Exception:  # whatever it is, the next request is answered
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"this could not be answered")
        lines = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.kind}",
            f"Content-Length: {len(answer.content)}",
            "Connection: close",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Referrer-Policy: no-referrer",
            "Cross-Origin-Resource-Policy: same-origin",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
        ]
        self.request.settimeout(ANSWER_SECONDS)
        self.request.sendall("\r\n".join([*lines, "", ""]).encode() + answer.content)

    def _head(self) -> bytes | None:
        """What comes before the empty line; None where it does not come in time or is too long."""
        until, head = time.monotonic() + SECONDS, b""
        while b"\r\n\r\n" not in head:
            self.request.settimeout(max(until - time.monotonic(), 0.001))
            part = self.request.recv(4096)
            head += part
            if not part or len(head) > HEAD:
                return None
        return head.partition(b"\r\n\r\n")[0]

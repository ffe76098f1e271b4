"""The connections of a reward's server: how many, for how long, and one request of each.

uvicorn does the work; it has no limit of its own for connections that say nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.rewards import wire

HEADER_SECONDS = 10.0
"""For a connection to say what it asks for."""

BODY_SECONDS, BODY_RATE = 20.0, 64 * 2**10
"""For a body: so many seconds, and one more for so many bytes that have come."""

DRAIN_SECONDS = 5.0
"""For the rest of a body that nobody wants."""

ANSWER_SECONDS = 10.0
"""For an answer to be taken."""

HEADER_BYTES = 2**14

BUFFERED = 2 * wire.LARGEST
"""Bytes of all bodies that are being received or wait to be scored."""


class LeftError(Exception):
    """The client closed its connection."""


class RefusedError(Exception):
    """A request that gets no scores: status, and one line with the reason."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Connection(H11Protocol):
    """One connection, which serves one request.

    When there are too many, the one that has said nothing for the longest time is closed.
    """

    def __init__(
        self,
        config: Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._silent_since = self.loop.time()
        self._silent = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._close_in(HEADER_SECONDS)
        if self.limit_concurrency and len(self.connections) >= self.limit_concurrency:
            silent = [c for c in self.connections if isinstance(c, Connection) and c._silent]
            min(silent, key=lambda c: c._silent_since).drop()  # there is at least this one

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.keep_open()
        super().connection_lost(exc)

    def keep_open(self) -> None:
        """The request is there: from now on the application keeps the time."""
        self._silent = False
        if self._deadline is not None:
            self._deadline.cancel()

    def end(self) -> None:
        """The answer is written: close, soon at the latest, also when nobody takes it."""
        self._close_in(ANSWER_SECONDS)

    def drop(self) -> None:
        """Close at once."""
        self._silent = False
        self.connections.discard(self)
        self.transport.abort()

    def _close_in(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.drop)


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Any],
        send: Callable[[dict[str, Any]], Any],
        memory: "Memory",
    ) -> None:
        self.method, self.path = str(scope["method"]), str(scope["path"])
        self.client = "{}:{}".format(*(scope["client"] or ("unknown", 0)))
        self._headers = {name: value for name, value in reversed(scope["headers"])}
        self._receive, self._send, self._memory = receive, send, memory
        self._connection: Connection = scope["state"]["connection"]
        self._more = True
        self._gone: asyncio.Task[Any] | None = None
        self._connection.keep_open()

    def header(self, name: str) -> bytes:
        """The first value of a header, or b""."""
        return self._headers.get(name.encode(), b"")

    @property
    def left(self) -> bool:
        """Whether the client has closed the connection since `watch`."""
        return self._gone is not None and self._gone.done()

    async def body(self) -> bytearray:
        """The body of the request; LeftError, or RefusedError: too large, too slow, too many."""
        too_large = RefusedError(413, f"a request has at most {wire.LARGEST} bytes")
        if int(self.header("content-length") or 0) > wire.LARGEST:  # h11 limits the digits
            raise too_large
        body, start = bytearray(), asyncio.get_running_loop().time()
        while self._more:
            until = start + BODY_SECONDS + len(body) / BODY_RATE
            try:
                async with asyncio.timeout_at(until):
                    part = await self._next()
            except TimeoutError:
                raise RefusedError(408, "the body of the request comes too slowly") from None
            if len(body) + len(part) > wire.LARGEST:
                raise too_large
            self._memory.take(self, len(part))
            body += part
        self._gone = asyncio.create_task(self._receive())
        return body

    async def answer(self, status: int, content: bytes) -> None:
        """Send the whole answer; the connection closes after it."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
        await self._drain()
        self._connection.end()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Release the memory of the request."""
        self._memory.give_back(self)
        if self._gone is not None:
            self._gone.cancel()

    async def _drain(self) -> None:
        """Take the rest of the body: to close before would lose the answer on its way."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._more:
                    await self._next()
        except (TimeoutError, LeftError):
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise LeftError
        self._more = message.get("more_body", False)
        return message.get("body", b"")


class Memory:
    """The bytes that all bodies may take together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[Exchange, int] = {}

    def take(self, exchange: Exchange, count: int) -> None:
        """Reserve bytes; RefusedError when too few are left."""
        if sum(self._taken.values()) + count > self._most:
            raise RefusedError(503, "too many requests are being received")
        self._taken[exchange] = self._taken.get(exchange, 0) + count

    def give_back(self, exchange: Exchange) -> None:
        """Release the bytes of an exchange."""
        self._taken.pop(exchange, None)

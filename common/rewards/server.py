"""Serves a reward over HTTP, so that it can run on another machine or in another environment.

Requests are scored one at a time, in the order of their arrival. Few may wait; the others get
status 503 and are sent again later, so the queue does not fill the server's memory. A request that
is still being received does not count as waiting.
"""

import asyncio
import hmac
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn

from common.rewards import guard, wire
from common.rewards.connections import (
    BUFFERED,
    HEADER_BYTES,
    Connection,
    Exchange,
    LeftError,
    Memory,
    RefusedError,
)
from common.rewards.hosts import Address, is_loopback
from common.rewards.registry import NamedReward

STOP_SECONDS = 5
"""For the request that is being scored when the server is asked to stop."""


class RewardServer:
    """The server: it listens once it is made; `serve_forever` answers.

    Raises ValueError for an address that others can reach without a token, and OSError when it
    cannot be listened at.
    """

    def __init__(
        self,
        reward: NamedReward,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        waiting: int = 16,
        timeout: float = 300.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """waiting: requests that may wait or be scored. timeout: seconds of one call.

        say: shows a line, as on a client that left; called in the thread of `serve_forever`.
        """
        if not is_loopback(host) and not token:
            raise ValueError(f"host {host} can be reached from outside: that needs a token")
        self.reward, self.waiting, self.seconds, self.say = reward, waiting, timeout, say
        self._token = f"Bearer {token}".encode() if token else b""
        self.scored = 0
        self._places, self._turn = 0, asyncio.Lock()
        self._memory = Memory(BUFFERED)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._socket = socket.create_server((host, port), family=family, backlog=256)
        self._server = uvicorn.Server(self._config())

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            workers=1,
            limit_concurrency=64 + 4 * self.waiting,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_graceful_shutdown=STOP_SECONDS,
        )

    @property
    def url(self) -> str:
        """The URL of the server."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{Address(host, port)}"

    def serve_forever(self) -> None:
        """Answer until `shutdown`; in the main thread, until Ctrl-C or SIGTERM too."""
        with self._socket, asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(self._failed)
            runner.run(self._server.serve(sockets=[self._socket]))

    def shutdown(self) -> None:
        """Stop listening, and finish or refuse the open requests; may be called from any thread."""
        self._server.should_exit = True

    def info(self) -> dict[str, Any]:
        """The description of the reward for clients."""
        spec = self.reward.spec
        return {
            "name": self.reward.name,
            "version": self._version,
            "range": spec.range if spec else "",
            "licence": spec.licence if spec else "",
            "exact": self.reward.exact,
            "groupwise": self.reward.groupwise,
        }

    @property
    def _version(self) -> str:
        """Of code, weights and options; "" where it is not known."""
        return f"{self.reward.version} {self.reward.identity}" if self.reward.spec else ""

    def score(self, body: bytes | bytearray) -> bytes:
        """The answer to the body of a request; raises WireError and RewardError."""
        images, prompts, metadata = wire.read_request(body)
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
        return wire.response(scores, self.reward.name, self._version)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, as the ASGI specification hands it over."""
        exchange = Exchange(scope, receive, send, self._memory)
        try:
            await exchange.answer(*await self._answer(exchange))
        except LeftError:
            self.say(f"{exchange.client} left before its answer")
        except asyncio.CancelledError:  # the server stops
            await exchange.answer(503, _error("the server stops"))
        finally:
            exchange.close()

    async def _answer(self, exchange: Exchange) -> tuple[int, bytes]:
        """Status and content."""
        try:
            self._check_allowed(exchange)
            if exchange.path == wire.INFO and exchange.method == "GET":
                return 200, json.dumps(self.info()).encode()
            self._check_place()
            return 200, await self._scored(exchange, await exchange.body())
        except RefusedError as error:
            return error.status, _error(str(error))
        except wire.TooLargeError as error:
            return 413, _error(str(error))
        except wire.WireError as error:
            return 400, _error(str(error))
        except guard.RewardError as error:
            return 500, _error(str(error))
        except LeftError:
            raise
        except Exception as error:  # whatever it is, the next request is answered
            self.say(wire.one_line(f"{exchange.client}: {type(error).__name__}: {error}"))
            return 500, _error(f"{type(error).__name__}: {error}")

    def _check_allowed(self, exchange: Exchange) -> None:
        if self._token and not hmac.compare_digest(exchange.header("authorization"), self._token):
            raise RefusedError(401, "the token is wrong or missing")
        methods = {wire.INFO: "GET", wire.SCORE: "POST"}
        if exchange.path not in methods:
            raise RefusedError(404, f"no such path; there are {wire.INFO} and {wire.SCORE}")
        if exchange.method != methods[exchange.path]:
            raise RefusedError(405, f"{exchange.path} answers {methods[exchange.path]} only")

    def _check_place(self) -> None:
        if self._places >= self.waiting:
            raise RefusedError(503, "too many requests are waiting")

    async def _scored(self, exchange: Exchange, body: bytearray) -> bytes:
        self._check_place()  # others may have come while the body was received
        self._places += 1
        try:
            async with self._turn:
                if exchange.left:
                    raise LeftError
                answer = await _in_thread(lambda: self.score(body))
            if exchange.left:
                raise LeftError
            return answer
        finally:
            self._places -= 1

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle a failed connection that the event loop reports."""
        error = context.get("exception")
        self.say(wire.one_line(f"connection: {context['message']} {error or ''}"))


async def _in_thread(function: Callable[[], bytes]) -> bytes:
    """Run a function in a daemon thread, which cannot keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()

    def settle(result: bytes | None, error: BaseException | None) -> None:
        if future.done():  # cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or b"")

    def run() -> None:
        outcome: tuple[bytes | None, BaseException | None]
        try:
            outcome = function(), None
        except BaseException as error:  # it is raised again where it is waited for
            outcome = None, error
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="scoring", daemon=True).start()
    return await future


def _error(text: str) -> bytes:
    return json.dumps({"error": " ".join(text.split())}).encode()

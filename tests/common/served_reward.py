"""A reward that is served in a thread of the test, and servers that answer what a test says."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager, suppress

import numpy as np

from common.rewards import wire
from common.rewards.registry import NamedReward
from common.rewards.remote import RemoteOptions, RemoteReward
from common.rewards.server import RewardServer

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
PROMPTS, METADATA = ["rose", "owl", "rose"], [{}, {"n": 2}, {}]


def value(images, prompts, metadata):
    """A number that every pixel, the prompt and the metadata decide."""
    pixels = images.astype(np.float64).reshape(len(images), -1)
    base = pixels @ np.arange(1, pixels.shape[1] + 1) / 7
    return [b + len(p) + m.get("n", 0) for b, p, m in zip(base, prompts, metadata, strict=True)]


@contextmanager
def served(function=value, **settings):
    server = RewardServer(NamedReward("mine", function), **settings)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(timeout=300)
        assert not thread.is_alive()


def client(url, **settings):
    return RemoteReward(RemoteOptions(url=url, **({"retry_for": 0.0} | settings)))


@contextmanager
def answering(*replies):
    """A server that gives each connection one of these raw replies; counts the connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(300)
    seen = []

    def run():
        for reply in replies:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                link.settimeout(300)
                seen.append(link.recv(65536))
                with suppress(OSError):  # the client has gone
                    if callable(reply):
                        reply(link)
                    elif reply:
                        link.sendall(reply)
                    link.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a connection
        listener.close()
        thread.join(timeout=300)


def reply(body, status="200 OK", length=None):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


INFO = reply({"name": "mine"})

GOOD = json.loads(wire.request(IMAGES, PROMPTS, METADATA))
"""A request, as the objects in it."""


def connected(server):
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=300)


def asked(server, body, **headers):
    """Status and error of the answer to a request."""
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=300)
    link.request("POST", wire.SCORE, body, headers)
    answer = link.getresponse()
    content = answer.read()
    link.close()
    return answer.status, json.loads(content).get("error", "")


def raw(server, request):
    """The status of the answer to these bytes."""
    with connected(server) as link:
        link.sendall(request)
        return int(link.makefile("rb").readline().split()[1])


def works(server):
    """Whether it answers a good request, and with the right scores."""
    got = client(server.url, patience=300.0)(IMAGES, PROMPTS, METADATA)
    return got.tolist() == value(IMAGES, PROMPTS, METADATA)

"""The server of a reward against requests that are wrong, huge, slow or never end."""

import base64
import io
import json
import struct
import threading
import time
import tracemalloc
import zlib
from contextlib import ExitStack, suppress

import pytest
from PIL import Image

from common.rewards import connections, wire
from common.rewards.registry import NamedReward
from common.rewards.server import RewardServer
from tests.common.served_reward import (
    GOOD,
    IMAGES,
    METADATA,
    PROMPTS,
    asked,
    client,
    connected,
    raw,
    served,
    value,
    works,
)


def png(width, height, *, chunks=b"", rows=b""):
    """A PNG of 1 bit per pixel whose header says that size."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", header, chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"".join([*parts, chunk(b"IEND", b"")])


def message(*files):
    texts = [base64.b64encode(file).decode() for file in files]
    some = len(files)
    return json.dumps({"images": texts, "prompts": ["a"] * some, "metadata": [{}] * some})


def black(side):
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, format="PNG")
    return file.getvalue()


# --- what a request says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": []}, "0 images, 3 prompts"),
        ({"prompts": ["a"]}, "3 images, 1 prompts"),
        ({"prompts": [1, 2, 3]}, "prompts must be texts"),
        ({"prompts": ["a", "\ud800", "b"]}, "prompts must be texts"),
        ({"metadata": [1, 2, 3]}, "metadata must be objects"),
        ({"images": ["AAAA", "AAAA", "AAAA"]}, "image 0 is no PNG"),
        ({"images": ["%%%"] * 3}, "image 0 is no PNG"),
        ({"images": [None] * 3}, "image 0 is no PNG"),
        ({"images": [{}] * 3}, "image 0 is no PNG"),
        ({"images": [text[:60] for text in GOOD["images"]]}, "image 0 is no PNG"),
        ({"images": 3}, "write lists"),
    ],
)
def test_a_request_that_is_none_is_answered_with_why(change, says):
    with served() as server:
        status, error = asked(server, json.dumps(GOOD | change))
        assert (status, says in error) == (400, True)
        assert works(server)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"[" * 100_000, 400, "nested too deep"),
        (b'{"metadata": ' * 50_000, 400, "nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", 400, "not valid JSON"),
        (b"\xff\xfe\xff", 400, "not valid JSON"),
        (b"", 400, "not valid JSON"),
        (b"[" + b"[]," * 2**20 + b"[]]", 413, "commas, colons and brackets"),
        (message(png(20_000, 20_000)).encode(), 413, "20000 x 20000 pixels"),
        (message(png(2**31 - 1, 2**31 - 1)).encode(), 413, "pixels"),
        (message(png(0, 4)).encode(), 400, "no PNG"),
        (message(png(4, 4)).encode(), 400, "no PNG"),
        (message(png(4, 4, chunks=png(9000, 9000)[8:33])).encode(), 400, "two sizes"),
        (message(png(4, 4, chunks=png(20_000, 20_000)[8:33])).encode(), 400, "no PNG"),
    ],
)
def test_a_body_made_to_break_a_parser_gets_an_answer(body, status, says, capfd):
    with served() as server:
        got, error = asked(server, body)
        assert (got, says in error) == (status, True), error
        assert works(server)
    assert capfd.readouterr() == ("", "")


def test_twenty_huge_pictures_in_57_kb_are_refused_before_they_are_decoded():
    body = message(*[black(4096)] * 20).encode()
    assert len(body) < 64_000
    with served() as server:
        tracemalloc.start()
        status, error = asked(server, body)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (status, "20 images have 335544320 pixels together" in error) == (413, True)
    assert peak < 16e6


def test_images_are_decoded_one_request_at_a_time():
    busy = threading.Lock()
    overlaps = []

    def decoding(text, index, size):
        overlaps.append(not busy.acquire(blocking=False))
        try:
            time.sleep(0.02)
            return decode(text, index, size)
        finally:
            busy.release()

    decode, wire._image = wire._image, decoding
    try:
        with served() as server:
            far = client(server.url)
            links = [threading.Thread(target=far, args=(IMAGES, PROMPTS, METADATA)) for _ in "1234"]
            for link in links:
                link.start()
            for link in links:
                link.join()
    finally:
        wire._image = decode
    assert overlaps == [False] * 12


def test_images_of_several_sizes_and_too_large_a_request_are_refused():
    texts = [json.loads(wire.request(IMAGES[:1, :n], ["p"], [{}]))["images"][0] for n in (5, 6)]
    body = json.dumps({"images": texts, "prompts": ["p"] * 2, "metadata": [{}] * 2}).encode()
    with pytest.raises(wire.WireError, match="one size"):
        wire.read_request(body)
    with pytest.raises(wire.WireError, match="metadata of a prompt cannot be sent"):
        wire.request(IMAGES[:1], ["p"], [{"x": {1, 2}}])


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (str(wire.LARGEST + 1), 413),
        (str(10**18), 413),
        ("1" * 5000, 400),
        ("-1", 400),
        ("1_0", 400),
    ],
)
def test_a_length_that_no_request_has_is_refused(length, status, capfd):
    head = f"POST {wire.SCORE} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    with served() as server:
        assert raw(server, head.encode()) == status
        assert works(server)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /v1/score HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("POST /v1/info HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        ("GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 404),
        ("nonsense\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: x\r\nX: {'a' * 40_000}", 400),
    ],
)
def test_a_head_that_is_wrong_gets_an_answer(head, status, capfd):
    with served() as server:
        assert raw(server, head.encode()) == status
        assert works(server)
    assert capfd.readouterr() == ("", "")


def test_a_body_in_chunks_is_limited_too(monkeypatch):
    monkeypatch.setattr(wire, "LARGEST", 5000)
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served() as server:
        assert raw(server, head + b"3e8\r\n" + b" " * 1000 + b"\r\n0\r\n\r\n") == 400
        assert raw(server, head + (b"3e8\r\n" + b" " * 1000 + b"\r\n") * 6) == 413


# --- how it comes --------------------------------------------------------------------------------


def test_a_client_that_hangs_up_costs_no_place_and_is_one_line(capfd):
    lines = []
    with served(waiting=1, say=lines.append) as server:
        for _ in range(3):
            with connected(server) as link:
                link.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert works(server)
    assert len(lines) == 3
    assert all("left before its answer" in line for line in lines)
    assert capfd.readouterr() == ("", "")


def test_a_client_that_leaves_while_it_waits_is_not_scored_and_is_one_line(capfd):
    begun, go_on, lines, calls = threading.Event(), threading.Event(), [], []

    def slowly(images, prompts, metadata):
        calls.append(len(images))
        begun.set()
        assert go_on.wait(20)
        return value(images, prompts, metadata)

    body = json.dumps(GOOD).encode()
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with served(slowly, say=lines.append) as server:
        with connected(server) as first, connected(server) as second:
            first.sendall(head + body)
            assert begun.wait(10)
            second.sendall(head + body)
            time.sleep(0.2)
        time.sleep(0.2)
        go_on.set()
        assert works(server)
    assert calls == [3, 3]
    assert len(lines) == 2
    assert all(line.endswith("left before its answer") for line in lines)
    assert capfd.readouterr() == ("", "")


def test_500_connections_that_say_nothing_cost_no_threads_and_keep_nobody_out():
    with served() as server, ExitStack() as open_links:
        before = threading.active_count()
        links = [open_links.enter_context(connected(server)) for _ in range(500)]
        time.sleep(0.2)
        assert threading.active_count() <= before + 1
        assert works(server)
        ended = 0
        for link in links:
            link.settimeout(0.01)
            try:
                ended += link.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionResetError:
                ended += 1
        assert ended >= 500 - 64 - 4 * 16


@pytest.mark.parametrize("start", [b"", b"POST /v1/sc", b"POST /v1/score HTTP/1.1\r\nX: y\r\n"])
def test_a_connection_that_does_not_ask_is_closed_in_time(start, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    with served() as server, connected(server) as link:
        link.sendall(start)
        began = time.monotonic()
        with suppress(ConnectionResetError):
            assert link.recv(1) == b""
        assert 0.1 < time.monotonic() - began < 5


def test_slow_bodies_take_no_place_and_end_in_time(monkeypatch):
    monkeypatch.setattr(connections, "BODY_SECONDS", 1.0)
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\n"
    monkeypatch.setenv("DRIFT_REWARD_TOKEN", "abc")
    with served(token="abc", waiting=2) as server, ExitStack() as open_links:
        links = [open_links.enter_context(connected(server)) for _ in range(16)]
        for link in links:
            link.sendall(head + b"Content-Length: 100000\r\n\r\n")
        for _ in range(4):
            for link in links:
                link.sendall(b" ")
            assert works(server)
        for link in links:
            assert link.makefile("rb").readline().split()[1] == b"408"


def test_bodies_take_a_limited_memory_together():
    with served() as server, ExitStack() as open_links:
        server._memory = connections.Memory(100_000)
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 80000\r\n\r\n"
        first, second = (open_links.enter_context(connected(server)) for _ in range(2))
        first.sendall(head + b" " * 79_999)
        time.sleep(0.2)
        second.sendall(head + b" " * 80_000)
        assert second.makefile("rb").readline().split()[1] == b"503"
        first.sendall(b" ")
        assert first.makefile("rb").readline().split()[1] == b"400"
        assert works(server)


def test_a_refusal_is_read_by_a_client_that_sends_all_of_its_body_first():
    body = b" " * 8_000_000
    with served(token="abc") as server:
        assert asked(server, body)[0] == 401
        assert asked(server, body, Authorization="Bearer abc")[0] == 400


def test_a_server_that_stops_sends_away_who_waits_and_does_not_hang(monkeypatch):
    from common.rewards import server as serving

    monkeypatch.setattr(serving, "STOP_SECONDS", 1)
    begun, go_on = threading.Event(), threading.Event()

    def stuck(images, prompts, metadata):
        begun.set()
        go_on.wait(20)
        return [1.0] * len(images)

    body = json.dumps(GOOD).encode()
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    try:
        with ExitStack() as open_links:
            with served(stuck) as server:
                links = [open_links.enter_context(connected(server)) for _ in range(3)]
                for link in links:
                    link.sendall(head + body)
                assert begun.wait(10)
            for link in links:
                assert link.makefile("rb").readline().split()[1] == b"503"
    finally:
        go_on.set()


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost"])
def test_it_listens_at_every_name_of_this_machine(host):
    with served(host=host) as server:
        assert server.url.startswith("http://[::1]:" if host == "::1" else "http://")
        assert works(server)


def test_an_address_for_others_needs_a_token():
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ValueError, match=r"can be reached from outside: that needs a token"):
            RewardServer(NamedReward("mine", value), host=host)

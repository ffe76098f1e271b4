"""The server of a reward against random damage: every request gets an answer, and no traceback."""

import json
import random
import socket
import struct
from contextlib import suppress

from tests.common.served_reward import GOOD, asked, connected, served, works

PIECES = [
    b"POST /v1/score HTTP/1.1\r\n",
    b"GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%ff%00 HTTP/1.0\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"5\r\nabcde\r\n",
    b"0\r\n\r\n",
    b"zz\r\n",
    b"\r\n",
    b"\x00\xff",
]


def test_400_connections_of_nonsense_leave_no_traceback(capfd):
    picker, lines = random.Random(0), []
    with served(say=lines.append) as server:
        for _ in range(400):
            with connected(server) as link, suppress(ConnectionError, TimeoutError):
                link.settimeout(0.01)
                link.sendall(b"".join(picker.choices(PIECES, k=picker.randint(1, 8))))
                if picker.random() < 0.5:
                    link.recv(100)
                    link.sendall(b"".join(picker.choices(PIECES, k=3)))
                if picker.random() < 0.5:  # a reset instead of an orderly end
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert works(server)
    assert all(line.endswith("left before its answer") for line in lines), lines
    assert capfd.readouterr() == ("", "")


def test_600_damaged_requests_get_an_answer_each(capfd):
    picker = random.Random(0)
    good = json.dumps(GOOD).encode()
    lines, statuses = [], []
    with served(say=lines.append) as server:
        for _ in range(600):
            body = bytearray(good)
            for _ in range(picker.randint(1, 8)):
                kind, at = picker.randrange(4), picker.randrange(len(body))
                if kind == 0:
                    body[at] = picker.randrange(256)
                elif kind == 1:
                    del body[at : at + picker.randint(1, 60)]
                elif kind == 2:
                    body[at:at] = body[at : at + picker.randint(1, 60)]
                else:
                    body[at:at] = picker.choice([b"[", b"{", b'"', b"\\ud800", b"1e400", b"null"])
                body = body or bytearray(b" ")
            statuses.append(asked(server, bytes(body))[0])
        assert works(server)
    assert {*statuses} <= {200, 400, 413}
    assert lines == []
    assert capfd.readouterr() == ("", "")

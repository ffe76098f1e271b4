"""A reward over HTTP: the same scores, in order, under load; every failure is one clear line."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from common.config import RewardConfig
from common.rewards import RewardError, RewardNameError, RewardSuite, create, guard, wire
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
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client(url, **settings):
    return RemoteReward(RemoteOptions(url=url, **({"retries": 0} | settings)))


def call(function, timeout=10.0):
    return guard.score(
        NamedReward("far", function),
        IMAGES,
        PROMPTS,
        METADATA,
        timeout=timeout,
        on_error="fail",
        describe=lambda n: f"prompt '{PROMPTS[n]}', sample {n}",
    )


@contextmanager
def answering(*replies):
    """A server that gives each connection one of these raw replies; counts the connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)
    seen = []

    def run():
        for reply in replies:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                link.settimeout(5)
                seen.append(link.recv(65536))
                if callable(reply):
                    reply()
                elif reply:
                    link.sendall(reply)
                link.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes whoever still waits for a connection
        listener.close()
        thread.join(timeout=6)


def reply(body, status="200 OK", length=None):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


INFO = reply({"name": "mine"})


def test_the_scores_are_those_of_the_reward_to_the_last_bit():
    with served() as server:
        got = call(client(server.url))
    assert got.tolist() == value(IMAGES, PROMPTS, METADATA)


def test_a_suite_fills_batches_and_takes_over_what_the_server_says(monkeypatch):
    sizes = []

    def counting(images, prompts, metadata):
        sizes.append(len(images))
        return value(images, prompts, metadata)

    with served(counting) as server:
        options = {"far": {"reward": "remote", "url": server.url, "batch_size": 2}}
        config = RewardConfig(terms={"far": 1.0}, options=options)
        suite = RewardSuite(config.terms, None, config)
        got = suite.score(IMAGES, PROMPTS, METADATA, describe=str)["far"]
        assert suite.rewards["far"].function.served == "mine"
    assert sizes == [2, 1]
    assert got.tolist() == value(IMAGES, PROMPTS, METADATA)


def test_64_clients_at_once_lose_nothing_and_mix_nothing_up():
    def slowly(images, prompts, metadata):
        time.sleep(0.002)
        return value(images, prompts, metadata)

    def one(seed):
        images = np.random.default_rng(seed).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
        prompts, metadata = [f"prompt {seed}"] * 4, [{"n": seed}] * 4
        far = client(server.url, retries=2)
        got = [far(images, prompts, metadata).tolist() for _ in range(2)]
        return got == [value(images, prompts, metadata)] * 2

    with served(slowly, waiting=8) as server, ThreadPoolExecutor(64) as pool:
        assert all(pool.map(one, range(64)))
        assert server.scored == 64 * 2 * 4


def test_a_busy_server_is_waited_for_but_not_for_ever():
    begun, go_on = threading.Event(), threading.Event()

    def stuck(images, prompts, metadata):
        begun.set()
        go_on.wait(10)
        return [1.0] * len(images)

    with served(stuck, waiting=1) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client(server.url), IMAGES, PROMPTS, METADATA)
        assert begun.wait(5)
        with pytest.raises(RewardError, match=r"busy for \d s \(patience = 0.3\)"):
            client(server.url, patience=0.3)(IMAGES, PROMPTS, METADATA)
        second = pool.submit(client(server.url), IMAGES, PROMPTS, METADATA)
        time.sleep(0.15)
        assert not second.done()
        go_on.set()
        assert first.result().tolist() == second.result().tolist() == [1.0] * 3


# --- failures ------------------------------------------------------------------------------------


def failing(images, prompts, metadata):
    raise KeyError("weights")


def hanging(images, prompts, metadata):
    time.sleep(1)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (failing, "status 500: reward 'mine' raised KeyError: 'weights'"),
        (hanging, "status 500: reward 'mine' took more than 0.2 s"),
        (lambda i, p, m: [1.0, np.nan, 2.0], "reward 'far' is nan for prompt 'owl', sample 1"),
        (lambda i, p, m: [1.0, 2.0], r"status 500: reward 'mine' returned shape \[2\] for 3"),
        (lambda i, p, m: ["a"] * 3, "status 500: reward 'mine' returned values of type"),
    ],
)
def test_a_reward_that_fails_over_there_fails_here(function, says):
    with served(function, timeout=0.2) as server, pytest.raises(RewardError, match=says) as caught:
        call(client(server.url))
    assert "\n" not in str(caught.value)


def test_a_dead_server_is_told_at_once_with_the_number_of_tries():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(RewardNameError, match=r"no connection: Conn.*refused \(2 tries\)") as error:
        create("remote", None, {"url": url, "retries": 1})
    assert str(error.value).startswith(f"reward 'remote': {url}: ")


def test_a_server_that_dies_in_between_is_an_error():
    with served() as server:
        far = client(server.url, retries=1)
    with pytest.raises(RewardError, match=r"reward 'far' raised .*no connection"):
        call(far)


def test_a_slow_server_is_an_error_in_time():
    with answering(INFO, lambda: time.sleep(0.6)) as (url, _):
        far = client(url, timeout=0.2, retries=5)
        start = time.monotonic()
        with pytest.raises(RewardError, match=r"no answer in 0.2 s \(timeout\)"):
            far(IMAGES, PROMPTS, METADATA)
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (reply(b'{"scores": [1', length=500), r"half an answer \(1 try\)"),
        (reply({"scores": [1.0, 2.0]}), "the answer has 2 scores for 3 images"),
        (reply({"scores": "abc"}), "the answer has no scores for 3 images"),
        (reply({"scores": [1, "2", 3]}), "holds '2', which is no number"),
        (reply({"scores": [1, True, 3]}), "holds True, which is no number"),
        (reply(b"[1, 2, 3]"), "no JSON object"),
        (reply(b"<html>"), "not valid JSON"),
        (reply(b"oh no", status="500 X"), "status 500: oh no"),
        (reply(b"", status="404 X"), "status 404: no reason given"),
        (b"", "no connection: RemoteDisconnected"),
        (b"not http\r\n\r\n", "no connection: BadStatusLine"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_a_score(bad, says):
    with answering(INFO, bad) as (url, _):
        far = client(url)
        with pytest.raises(RewardError, match=says):
            far(IMAGES, PROMPTS, METADATA)


def test_half_an_answer_is_asked_for_again():
    good = reply({"scores": [1, 2.5, None]})
    half = reply(b'{"scores": [9, 9', length=500)
    with answering(INFO, half, b"", reply(b"", status="502 X"), good) as (url, seen):
        far = client(url, retries=3)
        got = far(IMAGES, PROMPTS, METADATA)
    np.testing.assert_array_equal(got, [1.0, 2.5, np.nan])
    assert len(seen) == 5


def test_what_the_server_says_of_the_request_is_not_asked_twice():
    with answering(INFO, reply({"error": "no"}, status="400 X"), INFO) as (url, seen):
        far = client(url, retries=5)
        with pytest.raises(RewardError, match="status 400: no"):
            far(IMAGES, PROMPTS, METADATA)
    assert len(seen) == 2


def test_a_wrong_token_is_refused_and_a_right_one_is_not(monkeypatch):
    with served(token="s3cret") as server:
        for given in ("", "wrong"):
            monkeypatch.setenv("DRIFT_REWARD_TOKEN", given)
            with pytest.raises(RewardError, match=r"token is wrong.*variable DRIFT_REWARD_TOKEN"):
                client(server.url)
        monkeypatch.setenv("DRIFT_REWARD_TOKEN", "s3cret")
        far = client(server.url)
        assert far(IMAGES, PROMPTS, METADATA).tolist() == value(IMAGES, PROMPTS, METADATA)
        monkeypatch.setenv("DRIFT_REWARD_TOKEN", "old")
        with pytest.raises(RewardError, match="token"):
            far(IMAGES, PROMPTS, METADATA)
        assert server.scored == 3


def test_an_address_for_others_needs_a_token():
    with pytest.raises(ValueError, match=r"host 0\.0\.0\.0 can be reached .* needs a token"):
        RewardServer(NamedReward("mine", value), host="0.0.0.0")
    with pytest.raises(RewardError, match="url = 'ftp://x': write http"):
        client("ftp://x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": []}, "0 images, 3 prompts"),
        ({"prompts": ["a"]}, "3 images, 1 prompts"),
        ({"prompts": [1, 2, 3]}, "prompts must be texts"),
        ({"metadata": [1, 2, 3]}, "metadata must be objects"),
        ({"images": ["AAAA", "AAAA", "AAAA"]}, "image 0 is no PNG"),
        ({"images": ["%%%"] * 3}, "image 0 is no PNG"),
        ({"images": [None] * 3}, "image 0 is no PNG"),
        ({"images": 3}, "write lists"),
    ],
)
def test_a_request_that_is_none_is_answered_with_why(change, says):
    good = json.loads(wire.request(IMAGES, PROMPTS, METADATA))
    with served() as server:
        link = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
        link.request("POST", wire.SCORE, json.dumps(good | change))
        answer = link.getresponse()
        assert (answer.status, says in json.loads(answer.read())["error"]) == (400, True)
        link.close()
        assert client(server.url)(IMAGES, PROMPTS, METADATA).shape == (3,)  # it is still there


def test_images_of_several_sizes_and_too_large_a_request_are_refused():
    texts = [json.loads(wire.request(IMAGES[:1, :n], ["p"], [{}]))["images"][0] for n in (5, 6)]
    body = json.dumps({"images": texts, "prompts": ["p"] * 2, "metadata": [{}] * 2}).encode()
    with pytest.raises(wire.WireError, match="one size"):
        wire.read_request(body)
    with served() as server:
        link = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
        link.putrequest("POST", wire.SCORE)
        link.putheader("Content-Length", str(10**12))
        link.endheaders()
        assert link.getresponse().status == 413
        link.close()
    with pytest.raises(wire.WireError, match="metadata of a prompt cannot be sent"):
        wire.request(IMAGES[:1], ["p"], [{"x": {1, 2}}])


def test_a_client_that_hangs_up_halfway_costs_no_place():
    with served(waiting=1) as server:
        for _ in range(3):
            link = socket.create_connection(server.server_address[:2])
            link.sendall(b"POST /v1/score HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
            link.close()
        assert client(server.url, patience=5)(IMAGES, PROMPTS, METADATA).shape == (3,)

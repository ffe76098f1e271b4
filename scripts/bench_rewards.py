"""Processor time per image of the rewards with weights from pip, and a server with many clients.

python scripts/bench_rewards.py
python scripts/bench_rewards.py --served
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from common.backends import load
from common.rewards import create
from common.rewards.registry import NamedReward
from common.rewards.remote import RemoteOptions, RemoteReward
from common.rewards.server import RewardServer

SIDES, IMAGES = (32, 256, 512), 8

CLIENTS, EACH, CALL, SIDE = 8, 64, 16, 128
"""Clients of the server, images of each, images of one request, and pixels of a side."""

SECONDS = 0.005
"""For one image of the reward that is served; it sleeps, so that the rest shows."""


def main() -> None:
    """Print the table: milliseconds an image, of one thread, after one call to warm up."""
    if sys.argv[1:] == ["--served"]:
        served()
        return
    backend = load("cpu")
    options = {"ocr": {"threads": 1}, "imagenet": {"device": "cpu"}}
    print("reward            " + "".join(f"{side:>6} px" for side in SIDES))
    for name in ("jpeg_compressibility", "embedded", "imagenet", "ocr"):
        reward = create(name, backend, options.get(name))
        cells = []
        for side in SIDES:
            rng = np.random.default_rng(side)
            coarse = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
            images = coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
            words, about = ["fox"] * IMAGES, [{"text": "fox"}] * IMAGES
            reward(images[:1], words[:1], about[:1])
            start = time.process_time()
            reward(images, words, about)
            cells.append((time.process_time() - start) / IMAGES * 1000)
        print(f"{name:18}" + "".join(f"{cell:9.1f}" for cell in cells))


class _Counting(RemoteReward):
    """A client that counts the answers it gets."""

    def __init__(self, url: str, answers: Counter[int]) -> None:
        self._answers = answers
        super().__init__(RemoteOptions(url=url))

    def _judged(self, status: int, content: bytes) -> bytes:
        self._answers[status] += 1
        return super()._judged(status, content)


def served() -> None:
    """Print how long many clients at once take, beside the reward alone, by the places to wait."""
    alone = CLIENTS * EACH * SECONDS
    print("places to wait   all clients   the reward alone   refused and sent again   wrong")
    for waiting in (16, 2):
        seconds, refused, wrong = _all_clients(waiting)
        print(f"{waiting:14} {seconds:11.2f} s {alone:16.2f} s {refused:24} {wrong:7}")


def _all_clients(waiting: int) -> tuple[float, int, int]:
    """Seconds until all clients have their scores; requests that were refused, and wrong ones."""
    coarse = np.random.default_rng(0).integers(0, 256, (EACH, 8, 8, 3), dtype=np.uint8)
    images, answers = coarse.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2), Counter[int]()
    server = RewardServer(NamedReward("slow", _slow), waiting=waiting)

    def one(number: int) -> int:
        far, wanted = _Counting(server.url, answers), [float(number)] * CALL
        calls = range(0, EACH, CALL)
        parts = [far(images[n : n + CALL], [str(number)] * CALL, [{}] * CALL) for n in calls]
        return sum(part.tolist() != wanted for part in parts)

    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        start = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            wrong = sum(pool.map(one, range(CLIENTS)))
        return time.perf_counter() - start, answers[503], wrong
    finally:
        server.shutdown()
        thread.join()


def _slow(
    images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> list[float]:
    """The number that is the prompt."""
    time.sleep(SECONDS * len(images))
    return [float(prompt) for prompt in prompts]


if __name__ == "__main__":
    main()

"""Processor time per image of the rewards with weights from pip.

python scripts/bench_rewards.py
"""

import time

import numpy as np

from common.backends import load
from common.rewards import create

SIDES, IMAGES = (32, 256, 512), 8


def main() -> None:
    """Print the table: milliseconds an image, of one thread, after one call to warm up."""
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


if __name__ == "__main__":
    main()

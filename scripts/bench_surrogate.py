"""The error of a regressor on cheap features that replaces a slow reward.

A surrogate is a ridge regression from the embedded scorer's features, which every run computes
anyway, to a slower reward, here the log-probability of an ImageNet class. It is fitted on half of
the images of each prompt and predicts the other half. What training uses are differences within a
group, so errors are in units of the reward's spread within a prompt, for all images and for the
part with the most certain predictions (least predictive variance).

    python scripts/bench_surrogate.py
"""

import numpy as np

from common import config as configuration
from common.backends import load
from common.rewards import create
from common.sampling.ode import sample_images
from common.sampling.process import make_process

PROMPTS = ("rooster", "fox", "cat face", "elephant", "butterfly", "turtle")
IMAGES, STEPS, SEED = 64, 10, 0
RIDGE = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
CERTAIN = (1.0, 0.5, 0.25, 0.1)


def main() -> None:
    """Print the table."""
    config = configuration.load("emoji")
    backend = load("cpu")
    policy = backend.policy(config.model, config.adapter, seed=SEED)
    process = make_process(policy, config.rollout, STEPS)
    images = sample_images(policy, backend, process, PROMPTS, IMAGES, seed=SEED, batch_size=96)
    flat = images.reshape(-1, *images.shape[2:])
    words = [prompt for prompt in PROMPTS for _ in range(IMAGES)]
    slow = create("imagenet", backend, {"device": "cpu", "size": 128})
    reward = np.concatenate(
        [slow(flat[i : i + 32], words[i : i + 32], [{}] * 32) for i in range(0, len(flat), 32)]
    ).reshape(len(PROMPTS), IMAGES)
    features = backend.scorer("train").features(flat).reshape(*reward.shape, -1)
    print("ridge  certain share  error / spread  R^2 within prompts")
    for ridge in RIDGE:
        errors, truth, doubt = predicted(features.astype(np.float64), reward, ridge)
        order = np.argsort(doubt)
        spread = float(np.sqrt((truth**2).mean()))
        for share in CERTAIN:
            chosen = order[: round(share * len(order))]
            error = float(np.sqrt((errors[chosen] ** 2).mean())) / spread
            r2 = 1 - float((errors[chosen] ** 2).sum() / (truth[chosen] ** 2).sum())
            print(f"{ridge:5g}  {share:13.0%}  {error:14.2f}  {r2:18.2f}")


def predicted(
    features: np.ndarray, reward: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors, rewards less their prompt's mean, and predictive variance of the second halves."""
    half = reward.shape[1] // 2
    errors, truth, doubt = [], [], []
    for x, y in zip(features, reward, strict=True):
        mean, level = x[:half].mean(axis=0), y[:half].mean()
        fit, new = x[:half] - mean, x[half:] - mean
        gram = np.linalg.inv(fit @ fit.T + ridge * np.eye(half))
        guess = new @ fit.T @ gram @ (y[:half] - level) + level
        errors.append(guess - y[half:])
        truth.append(y[half:] - y[half:].mean())
        cross = new @ fit.T
        doubt.append((new**2).sum(axis=1) - np.einsum("ij,jk,ik->i", cross, gram, cross))
    return tuple(np.concatenate(parts) for parts in (errors, truth, doubt))  # pyright: ignore


if __name__ == "__main__":
    main()

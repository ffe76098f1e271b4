"""One backend set up for the comparison, and the inputs that all of them get.

Inputs are drawn from noise keys on the host, so they are the same bits everywhere. float32 draws
are exact in float64, and what is computed in float64 (noise levels, time features) is rounded
only when it goes to a device: that rounding belongs to the backend's error.
"""

import json
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np

from common import config as configuration
from common.algorithm import kernels
from common.backends import Array, Backend, Conditioning, Policy
from common.config import AdapterConfig, Config, ModelConfig
from common.embedded.model import FOLDER, from_images
from common.random import Key, Purpose, address, normal
from common.sampling.process import FlowProcess, Levels

SEED = 2601

PROMPTS = ("strawberry", "cat face", "cherry blossom", "owl")
"""One for each of the B samples of a single stage."""

STEPS = np.array([0, 3, 6, 9])
"""Denoising steps of the B samples, from pure noise to the last one."""

ADAPTER_SCALE = 0.02
"""Standard deviation of B's elements in the adapted model; a fresh adapter would change nothing."""


def settings(*changes: str) -> Config:
    """The emoji recipe, all three mechanisms on, with changes as `--set` writes them.

    What the stages rely on is set here, whatever the recipe says: ten steps, all of them kept.
    """
    pinned = (
        f"run.seed={SEED}",
        "rollout.steps=10",
        "rollout.window=0",
        "rollout.trained_steps=0",
        "rollout.kernel=flow_sde",
        "objective.kl_form=transition",
    )
    return configuration.load("emoji", [*pinned, *changes])


def draw(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 draws under a name of their own."""
    return normal(Key(SEED, Purpose.DATA, prompt=address(name)), shape)


def emoji(count: int) -> np.ndarray:
    """Real images, spread over the data: uint8 [count, 32, 32, 3]."""
    images, _ = _data()
    return images[np.linspace(0, len(images) - 1, count).astype(int)]


def emoji_named(name: str, count: int) -> np.ndarray:
    """The first images of one name: uint8 [count, 32, 32, 3]."""
    images, names = _data()
    return images[names == name][:count]


@cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    """All images, and the name of each."""
    names = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))["names"]
    with np.load(FOLDER / "emoji32.npz") as data:
        return data["images"], np.array(names)[data["name_index"]]


class BackendUnderTest:
    """A backend with the models under comparison, each made when it is first needed."""

    def __init__(self, backend: Backend, reference: "BackendUnderTest | None" = None) -> None:
        self.backend, self._reference = backend, reference or self
        self.process = FlowProcess.from_config(settings().rollout)
        self._sampled: dict[tuple[str, float, float], tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def adapted(self) -> Policy:
        """The emoji model with a low-rank adapter that does something."""
        policy = self.backend.policy(ModelConfig(), AdapterConfig(), seed=SEED)
        values = self.to_host(policy.parameters())
        for name, value in values.items():
            if name.endswith("lora_B.weight"):
                values[name] = ADAPTER_SCALE * draw(name, value.shape)
        policy.load_parameters(values)
        return policy

    @cached_property
    def full(self) -> Policy:
        """The emoji model with every weight trainable; not tuned, so it is the base model."""
        return self.backend.policy(ModelConfig(), AdapterConfig(kind="full"), seed=SEED)

    @cached_property
    def latents(self) -> np.ndarray:
        """Noised emoji x_s = (1 - s) x0 + s z at the levels of STEPS: float32 [B, 3, 32, 32]."""
        s = self.process.sigmas[STEPS][:, None, None, None].astype(np.float32)
        x0 = from_images(emoji(len(STEPS)))
        return (1 - s) * x0 + s * draw("latents", x0.shape)

    def sampled(self, process: FlowProcess) -> tuple[np.ndarray, np.ndarray]:
        """Samples of the adapted model from the latents, float32, and their log-probs: [B].

        Computed by the reference alone: the clip and the KL mean something near the policy that
        sampled only, and every backend must start from the same numbers.
        """
        if self._reference is not self:
            return self._reference.sampled(process)
        key = process.kernel, process.noise_level, process.guidance
        if key not in self._sampled:
            x = self.latents.astype(np.float64)
            levels = Levels(None, process.sigmas[STEPS], process.sigmas[STEPS + 1])
            transition = process.transition(x, self.velocity(self.adapted, process), levels)
            sample = kernels.sample(transition, draw("sampled", x.shape)).astype(np.float32)
            log_prob = process.log_prob(sample.astype(np.float64), transition)
            self._sampled[key] = sample, log_prob
        return self._sampled[key]

    def levels(self, policy: Policy) -> Levels:
        """The noise levels of the B samples."""
        return self.process.levels(self.backend, policy, STEPS)

    def conditioning(self, policy: Policy) -> Conditioning:
        """The encoded PROMPTS."""
        with self.backend.inference():
            return policy.encode(PROMPTS)

    def velocity(self, policy: Policy, process: FlowProcess | None = None) -> np.ndarray:
        """The policy's prediction for the B samples, with the guidance of a process: host."""
        x, levels = self.backend.asarray(self.latents), self.levels(policy)
        predict = (process or self.process).predict
        with self.backend.inference():
            velocity = predict(policy, x, levels, self.conditioning(policy))
        return self.backend.to_numpy(velocity)

    def to_host(self, arrays: dict[str, Array]) -> dict[str, np.ndarray]:
        """Named device arrays as numpy arrays."""
        return {name: self.backend.to_numpy(array) for name, array in arrays.items()}

"""The tables of what is sampled: `[prompts]` and `[rollout]`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.algorithm import kernels, schedules
from common.choices import Split
from common.config.types import (
    MOST_STEPS,
    AboveZero,
    GuidanceBatch,
    GuidanceGradient,
    Positive,
    Table,
    Unit,
    key,
)

PROMPT_FILES = (".txt", ".jsonl", ".csv")
"""Suffixes of the files that `prompts.source` may name."""


class RewriterConfig(Table):
    """`[prompts.rewriter]`: variants of each prompt, written by a language model before the run."""

    model: str | None = key(
        None, "folder or repository name of a causal language model; unset = no variants"
    )
    variants: Positive = key(4, "variants of each prompt")
    share: Unit = key(0.5, "share of each group that uses a variant; other samples in each update")
    temperature: AboveZero = key(0.9, "sampling temperature of the language model")
    max_tokens: Positive = key(96, "most tokens of an answer; a longer answer is not used")


class PromptsConfig(Table):
    """`[prompts]`: the texts that images are made of."""

    source: str = key(
        "emoji",
        "a set that `drift prompts` lists, or a file: .txt (one prompt a line), .jsonl or .csv",
    )
    names: tuple[str, ...] = key((), "only these prompts of the source; [] = all", strict=False)
    split: Literal["all", Split] = key(
        "all", "only prompts of this split; a prompt's text alone decides its split"
    )
    held_out: tuple[Unit, Unit] = key(
        (0.1, 0.1), "shares of the prompts that are for validation and for test", strict=False
    )
    limit: Annotated[int, Field(ge=0)] = key(
        0, "number of prompts, the first in the order of their text's SHA-256; 0 = all"
    )
    rewriter: RewriterConfig = RewriterConfig()

    @model_validator(mode="after")
    def _check(self) -> "PromptsConfig":
        if sum(self.held_out) >= 1:
            raise ValueError(f"held_out = {list(self.held_out)} leaves no prompts to train on")
        return self

    @property
    def file(self) -> Path | None:
        """The file that `source` names; None for a set that ships."""
        path = Path(self.source)
        return path if path.suffix in PROMPT_FILES else None


class RolloutConfig(Table):
    """`[rollout]`: how images are sampled for training."""

    prompts: Positive = key(4, "P: prompts per update")
    group_size: Annotated[int, Field(ge=2)] = key(24, "G: samples of each prompt")
    steps: Annotated[int, Field(ge=2, le=MOST_STEPS)] = key(10, "T: denoising steps")
    kernel: kernels.Kernel = key(
        "flow_sde",
        "stochastic transition: of flows (Flow-GRPO, CPS, DanceGRPO); of diffusions ddim (DDPO)",
    )
    noise_level: AboveZero = key(0.7, "strength a or eta of the kernel's noise")
    guidance: AboveZero = key(1.0, "classifier-free guidance scale; 1 = none")
    guidance_gradient: GuidanceGradient = key(
        "both", "branches of guidance with gradients: both, or only the one with the prompt"
    )
    guidance_batch: GuidanceBatch = key(
        "split",
        "both branches of guidance in two forward passes, or joined in one of twice the batch: "
        "faster on some devices, and more memory",
    )
    schedule: Literal[schedules.FlowSpacing, "model"] = key(
        "linear", "spacing of a flow's noise levels; model = the model's own at this resolution"
    )
    shift: AboveZero = key(3.0, "time shift of the shifted schedules")
    window: Annotated[int, Field(ge=0)] = key(
        0, "stochastic steps in an update, the others follow the ODE; 0 = every step"
    )
    window_range: tuple[Unit, Unit] = key(
        (0.0, 0.5), "part of the trajectory that a window is drawn from", strict=False
    )
    trained_steps: Annotated[int, Field(ge=0)] = key(
        0, "stochastic steps drawn for training in each update; 0 = all of them"
    )
    train_last_step: bool = key(False, "also train the last denoising step")
    batch_size: Positive = key(96, "images in one forward pass: bounds memory")

    @model_validator(mode="after")
    def _check(self) -> "RolloutConfig":
        low, high = self.window_range
        if low >= high:
            raise ValueError(f"window_range must rise, not {list(self.window_range)}")
        if self.window > len(self.window_steps):
            raise ValueError(
                f"window = {self.window} does not fit: window_range = {list(self.window_range)} of "
                f"{self.steps} steps holds {len(self.window_steps)} that can be trained"
            )
        if self.guidance_batch == "joined" and self.guidance_gradient == "conditional":
            raise ValueError(
                "guidance_batch = 'joined' goes back through both branches, which "
                "guidance_gradient = 'conditional' spares"
            )
        if self.kernel == "cps" and self.train_last_step:
            raise ValueError("train_last_step = true: the last step of CPS has no noise to train")
        if self.kernel in ("cps", "ddim") and self.noise_level > 1:
            name = self.kernel.upper()
            raise ValueError(f"noise_level = {self.noise_level} is above 1, the most {name} takes")
        return self

    @property
    def window_steps(self) -> range:
        """Steps that a window may hold: those of `window_range` that can be trained."""
        low, high = (int(bound * self.steps) for bound in self.window_range)
        return range(low, min(high, self.steps if self.train_last_step else self.steps - 1))

"""The tables of the method: `[drift]`, `[objective]` and `[optimizer]`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.algorithm import advantage, annealing, objective, prompt_noise, shaping, subset
from common.algorithm.potential import Potential
from common.config.types import (
    AboveZero,
    NonNegative,
    Positive,
    Setting,
    Table,
    Unit,
    key,
)


class SubsetConfig(Table):
    """`[drift.subset]`: train on a reward-concentrated subset of each group."""

    rule: subset.Rule = key("none", "how the subset is selected by task reward")
    keep: Annotated[int, Field(ge=2)] | None = key(
        None, "K: samples that window, minvar, trim, nearest, random and maxvar keep"
    )
    alpha: AboveZero = key(1.5, "half width of `band`, in standard deviations")
    kappa: AboveZero = key(2.5, "cut of `mad`, `upper`, `lower`, in scaled MADs")

    @model_validator(mode="after")
    def _check(self) -> "SubsetConfig":
        if self.rule in subset.COUNTING_RULES and self.keep is None:
            raise ValueError(f"rule = '{self.rule}' needs keep, the number of samples to keep")
        return self


class NoiseConfig(Table):
    """`[drift.noise]`: annealed noise on the prompt embedding."""

    strength: NonNegative = key(0.0, "s: strength of the noise on the tokens; 0 = none")
    pooled_strength: NonNegative = key(0.0, "s of the noise on the pooled embedding; 0 = none")
    form: prompt_noise.Form = key("additive", "formula that adds the noise")
    mix: Unit = key(1.0, "psi of `cads`: share of the rescaled embedding")
    schedule: annealing.Schedule = key("linear", "how the noise falls over denoising time")
    tau1: Unit = key(0.6, "below this time there is no noise (`cads`, `cosine`, `exponential`)")
    tau2: Unit = key(0.9, "above this time they add all the noise")
    rate: AboveZero = key(3.0, "k of `exponential`")
    axis: annealing.Axis = key("index", "which time the annealing follows")
    draw: Literal["trajectory", "step"] = key(
        "trajectory", "whether noise is drawn once per trajectory or per step"
    )
    training_schedule: annealing.TrainingSchedule = key(
        "constant", "how the strength falls over the updates of the run"
    )
    share: Unit = key(1.0, "share of each group that has noise: its first round(share G) samples")

    @model_validator(mode="after")
    def _check(self) -> "NoiseConfig":
        if self.tau1 >= self.tau2:
            raise ValueError(f"tau1 = {self.tau1} must be below tau2 = {self.tau2}")
        return self


class ShapingConfig(Table):
    """`[drift.shaping]`: intra-group diversity as a potential that shapes the reward."""

    mode: shaping.Mode = key(
        "none", "where the potential acts; multiplicative ignores gamma, scaling and gate"
    )
    potential: Potential = key("mean_pairwise", "diversity of one sample within its group")
    features: str = key(
        "embedded", "image features of the distances; `drift rewards --features` lists them"
    )
    features_options: dict[str, Setting] = key(
        {}, "settings of the features, as the path of their weights"
    )
    neighbours: Positive = key(3, "k of `knn`")
    radius: AboveZero = key(0.1, "distance that joins two samples of a `cluster`")
    weight: NonNegative = key(0.0, "lambda; 0 is the unshaped baseline")
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = key(
        1.0, "discount of the potential, per denoising step"
    )
    scaling: shaping.Scaling = key("zscore", "unit of the potential")
    gate: shaping.Gate = key(
        "none", "which samples gain from diversity; base = the base model in the first evaluation"
    )
    statistics: Literal["full", "subset"] = key(
        "full", "samples whose mean and std scaling and gate use: the full group, or the subset"
    )
    training_schedule: annealing.TrainingSchedule = key(
        "constant", "how the weight falls over the updates of the run"
    )
    shuffle: bool = key(False, "control: permute the potentials of a group at random")


class DriftConfig(Table):
    """`[drift]`: the three mechanisms. All off is plain GRPO."""

    subset: SubsetConfig = SubsetConfig()
    noise: NoiseConfig = NoiseConfig()
    shaping: ShapingConfig = ShapingConfig()


class ObjectiveConfig(Table):
    """`[objective]`: the clipped surrogate."""

    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = key(
        1e-3, "the ratio is clipped at 1 - clip_low"
    )
    clip_high: AboveZero = key(1e-3, "the ratio is clipped at 1 + clip_high")
    advantage_clip: AboveZero = key(
        5.0, "advantages are clipped to +- this value, after a multiplicative shaping"
    )
    statistics: advantage.Statistics = key(
        "subset", "samples whose standard deviation divides the advantages; none = undivided"
    )
    zero_advantage: Literal["keep", "drop"] = key(
        "keep",
        "samples without an advantage other than 0: keep = they count in the mean of the loss; "
        "drop = they are left out of it (Flow-GRPO)",
    )
    kl_weight: NonNegative = key(0.0, "beta: weight of the KL to the reference")
    kl_form: objective.KLForm = key(
        "transition",
        "the KL that beta weighs: of each transition, or that times the width of the step, as in "
        "the code of Flow-GRPO",
    )
    kl_every: Annotated[int, Field(ge=0)] = key(
        1,
        "updates from one measurement of the KL to the reference to the next, where beta = 0: the "
        "KL is then only logged; 0 = never",
    )
    optimizer_steps: Positive = key(1, "optimizer steps per update")
    micro_batch: Positive = key(96, "transitions in one backward pass: bounds memory")
    lanes: Literal[0, 1, 2, 4, 8, 16, 32, 64] = key(
        0,
        "leaves of the tree that gradients are added up in, and the most processes that share an "
        "update; 0 = 8 with an adapter, 1 in full tuning, where each sum is large",
    )


class OptimizerConfig(Table):
    """`[optimizer]`: AdamW."""

    learning_rate: AboveZero = key(3e-4, "step size")
    beta1: Annotated[float, Field(ge=0, lt=1)] = key(0.9, "decay of the first moment")
    beta2: Annotated[float, Field(ge=0, lt=1)] = key(0.999, "decay of the second moment")
    eps: AboveZero = key(1e-8, "added to the root of the second moment")
    weight_decay: NonNegative = key(1e-4, "decoupled weight decay")
    max_grad_norm: AboveZero = key(1.0, "gradients are scaled down to this norm")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = key(
        0.0, "moving average of the weights, used for evaluation; 0 = none"
    )
    ema_every: Positive = key(8, "optimizer steps between two steps of the average")

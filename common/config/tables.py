"""The tables of a run's configuration: every key is declared once, with its meaning.

`[model]` and `[adapter]` are in `common.config.model`. How tables are read from recipes, changed
and compared is in `common.config.load`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.algorithm import (
    advantage,
    annealing,
    kernels,
    prompt_noise,
    schedules,
    shaping,
    subset,
)
from common.algorithm.combine import Combination
from common.algorithm.potential import Potential
from common.choices import Split
from common.config.model import TARGETS, AdapterConfig, ModelConfig
from common.config.types import (
    AboveZero,
    Finite,
    GuidanceGradient,
    Name,
    NonNegative,
    OnError,
    Positive,
    Setting,
    Table,
    Unit,
    key,
)


class RunConfig(Table):
    """`[run]`: the identity of the run."""

    recipe: Name = key("emoji", "name of the recipe of this configuration, and of the run's folder")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = key(0, "seed of all random draws")
    updates: Positive = key(60, "policy updates: one rollout each")
    backend: str = key("auto", "mlx, cuda, cpu, or auto: the fastest on this machine")


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
        "emoji", "a set that `drift prompts` lists, or a file: .txt, one prompt a line, or .jsonl"
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
        return path if path.suffix in (".txt", ".jsonl") else None


class RolloutConfig(Table):
    """`[rollout]`: how images are sampled for training."""

    prompts: Positive = key(4, "P: prompts per update")
    group_size: Annotated[int, Field(ge=2)] = key(24, "G: samples of each prompt")
    steps: Annotated[int, Field(ge=2)] = key(10, "T: denoising steps")
    kernel: kernels.Kernel = key(
        "flow_sde",
        "stochastic transition: of flows (Flow-GRPO, CPS, DanceGRPO); of diffusions ddim (DDPO)",
    )
    noise_level: AboveZero = key(0.7, "strength a or eta of the kernel's noise")
    guidance: AboveZero = key(1.0, "classifier-free guidance scale; 1 = none")
    guidance_gradient: GuidanceGradient = key(
        "both", "branches with gradients: both (DDPO, Flow-GRPO), or only the one with the prompt"
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
    advantage_clip: AboveZero = key(5.0, "advantages are clipped to +- this value")
    statistics: advantage.Statistics = key(
        "subset", "samples whose standard deviation divides the advantages"
    )
    kl_weight: NonNegative = key(0.0, "beta: weight of the KL to the reference")
    optimizer_steps: Positive = key(1, "optimizer steps per update")
    micro_batch: Positive = key(96, "transitions in one backward pass: bounds memory")


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


class RewardConfig(Table):
    """`[reward]`: the scores that are maximised."""

    terms: dict[str, Finite] = key({"embedded": 10.0}, "reward name -> weight")
    combine: Combination = key(
        "weighted_sum",
        "group_zscore scales each term within its group first (GDPO); minimum = the worst term",
    )
    floors: dict[str, Finite] = key(
        {}, "reward name -> a sample below it gets the lowest reward of its group"
    )
    ceilings: dict[str, Finite] = key({}, "reward name -> scores above it count as equal to it")
    options: dict[str, dict[str, Setting]] = key(
        {}, "reward name -> its own settings, which `drift rewards NAME` lists"
    )
    cache: str | None = key(
        None, "SQLite file that keeps scores of exact rewards between runs; unset = memory only"
    )
    timeout: AboveZero = key(300.0, "seconds that one call of a reward may take")
    on_error: OnError = key("fail", "a score that is not finite stops the run, or drops the sample")

    @model_validator(mode="after")
    def _check(self) -> "RewardConfig":
        if not self.terms or all(weight == 0 for weight in self.terms.values()):
            raise ValueError("terms needs at least one reward with a weight other than 0")
        for table in ("floors", "ceilings", "options"):
            if strange := sorted(getattr(self, table).keys() - self.terms.keys()):
                raise ValueError(
                    f"{table}.{strange[0]}: no such term; terms has {', '.join(sorted(self.terms))}"
                )
        return self


class AuditConfig(Table):
    """`[audit]`: measuring scorers that are not maximised, during the run."""

    every: Annotated[int, Field(ge=0)] = key(0, "updates between two audits; 0 = none")
    images: Annotated[int, Field(ge=2)] = key(8, "images of each prompt")
    scorers: tuple[str, ...] = key(
        (), "held-out rewards to watch; [] = the embedded held-out scorer", strict=False
    )
    tolerance: AboveZero = key(
        0.3, "a fall below the base model by more standard deviations within a prompt is an alarm"
    )
    action: Literal["warn", "stop", "weaken"] = key(
        "warn", "action at an alarm; weaken lowers the weight of the term that rose most"
    )
    factor: Unit = key(0.5, "what `weaken` multiplies that weight by")


class CheckpointConfig(Table):
    """`[checkpoint]`: the states of a run on disk."""

    every: Positive = key(10, "updates between two checkpoints; the last update is saved too")
    keep: Annotated[int, Field(ge=0)] = key(0, "newest checkpoints kept; 0 = all")


class EvaluateConfig(Table):
    """`[evaluate]`: measuring the policy on fixed initial noise as it trains."""

    every: Positive = key(
        20, "updates between two evaluations; before the first and after the last update too"
    )
    images: Annotated[int, Field(ge=2)] = key(16, "images of each prompt")
    steps: Positive = key(20, "ODE steps")
    prompts: Annotated[int, Field(ge=0)] = key(0, "number of prompts, the first ones; 0 = all")
    grid: Positive = key(8, "images of each prompt in the picture")
    features: str = key(
        "embedded_heldout", "image features that diversity is measured with; not those of shaping"
    )
    features_options: dict[str, Setting] = key(
        {}, "settings of the features, as the path of their weights"
    )


class Config(Table):
    """A whole run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    prompts: PromptsConfig = PromptsConfig()
    rollout: RolloutConfig = RolloutConfig()
    drift: DriftConfig = DriftConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    reward: RewardConfig = RewardConfig()
    audit: AuditConfig = AuditConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="before")
    @classmethod
    def _published_targets(cls, tables: Any) -> Any:
        """Set `adapter.targets` to the family's published ones, unless the user names some."""
        model, adapter = (tables.get(name, {}) for name in ("model", "adapter"))
        if not isinstance(model, Mapping) or not isinstance(adapter, Mapping):
            return tables
        own = TARGETS.get(str(model.get("family")))
        if own is None or "targets" in adapter:
            return tables
        return {**tables, "adapter": {**adapter, "targets": own}}

    @model_validator(mode="after")
    def _check(self) -> "Config":
        keep, group = self.drift.subset.keep, self.rollout.group_size
        if keep is not None and keep > group:
            raise ValueError(
                f"drift.subset.keep = {keep} is more than rollout.group_size = {group}"
            )
        if self.adapter.kind == "full" and self.model.quantize:
            raise ValueError(
                f"adapter.kind = 'full' needs model.quantize = 0: weights of {self.model.quantize} "
                "bits cannot be trained, only an adapter on them"
            )
        if self.adapter.kind == "full" and self.model.dtype != "float32":
            raise ValueError(
                f"adapter.kind = 'full' needs model.dtype = 'float32': steps are too small for the "
                f"digits of {self.model.dtype}"
            )
        if self.audit.every and self.audit.action == "weaken":
            if len(self.reward.terms) < 2:
                raise ValueError(
                    "audit.action = 'weaken' needs two reward.terms: with one, its weight does not "
                    "matter, since advantages are normalised"
                )
            if self.drift.shaping.gate == "above_base":
                raise ValueError(
                    "audit.action = 'weaken' changes the reward that drift.shaping.gate = "
                    "'above_base' compares with: choose another gate or action"
                )
        if self.drift.shaping.gate == "above_base" and self.reward.combine == "group_zscore":
            raise ValueError(
                "drift.shaping.gate = 'above_base' compares with a weighted sum, which "
                "reward.combine = 'group_zscore' is not: choose 'weighted_sum' or another gate"
            )
        return self

"""The whole configuration of a run: every key is declared once, with its meaning.

The tables are in files by what they set: `model` (`[model]`, `[adapter]`), `sampling`
(`[prompts]`, `[rollout]`), `method` (`[drift]`, `[objective]`, `[optimizer]`), `scoring`
(`[reward]`, `[audit]`, `[evaluate]`) and `tracking` (`[track]`). How they are read from recipes,
changed and compared is in `common.config.load`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from common.config.method import DriftConfig, ObjectiveConfig, OptimizerConfig
from common.config.model import TARGETS, AdapterConfig, ModelConfig
from common.config.sampling import PromptsConfig, RolloutConfig
from common.config.scoring import AuditConfig, EvaluateConfig, RewardConfig
from common.config.tracking import TrackConfig
from common.config.types import Name, Positive, Table, key


class RunConfig(Table):
    """`[run]`: the identity of the run."""

    recipe: Name = key("emoji", "name of the recipe of this configuration, and of the run's folder")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = key(0, "seed of all random draws")
    updates: Positive = key(60, "policy updates: one rollout each")
    backend: str = key("auto", "mlx, cuda, cpu, or auto: the fastest on this machine")


class CheckpointConfig(Table):
    """`[checkpoint]`: the states of a run on disk."""

    every: Positive = key(10, "updates between two checkpoints; the last update is saved too")
    keep: Annotated[int, Field(ge=0)] = key(0, "newest checkpoints kept; 0 = all")


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
    track: TrackConfig = TrackConfig()

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
        if self.adapter.kind == "full" and self.model.shard == "fsdp":
            raise ValueError(
                "adapter.kind = 'full' needs model.shard = 'none': only frozen weights are sharded"
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

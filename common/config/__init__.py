"""The configuration of a run: its tables, the recipes that fill them, and the errors they give.

`load` makes one of a recipe and of changes; the tables and their keys are in `tables` and `model`,
recipe files in `recipes`.
"""

from common.config.errors import ConfigError, closest
from common.config.load import (
    Overrides,
    changed,
    differences,
    flatten,
    known_keys,
    load,
    parse,
    split_key,
    to_tables,
)
from common.config.model import AdapterConfig, ModelConfig
from common.config.recipes import RECIPES, Recipe, read as read_recipe, recipe_names
from common.config.tables import (
    CheckpointConfig,
    Config,
    DriftConfig,
    EvaluateConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PromptsConfig,
    RewardConfig,
    RewriterConfig,
    RolloutConfig,
    RunConfig,
    ShapingConfig,
    SubsetConfig,
)
from common.config.types import Table, key

__all__ = [
    "RECIPES",
    "AdapterConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DriftConfig",
    "EvaluateConfig",
    "ModelConfig",
    "NoiseConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "Overrides",
    "PromptsConfig",
    "Recipe",
    "RewardConfig",
    "RewriterConfig",
    "RolloutConfig",
    "RunConfig",
    "ShapingConfig",
    "SubsetConfig",
    "Table",
    "changed",
    "closest",
    "differences",
    "flatten",
    "key",
    "known_keys",
    "load",
    "parse",
    "read_recipe",
    "recipe_names",
    "split_key",
    "to_tables",
]

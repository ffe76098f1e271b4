"""The configuration of a run: its tables, the recipes that fill them, and the errors they give.

`load` makes one of a recipe and of changes; the whole is in `tables`, which names the files of
the single tables; recipe files are in `recipes`.
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
from common.config.method import (
    DriftConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ShapingConfig,
    SubsetConfig,
)
from common.config.model import AdapterConfig, ModelConfig
from common.config.recipes import RECIPES, Recipe, read as read_recipe, recipe_names
from common.config.sampling import PromptsConfig, RewriterConfig, RolloutConfig
from common.config.scoring import EvaluateConfig, RewardConfig
from common.config.tables import CheckpointConfig, Config, RunConfig
from common.config.tracking import TrackConfig, Tracker
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
    "TrackConfig",
    "Tracker",
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

"""Rewards: the registry, the built-in rewards, safe calls, and their combination."""

from common.algorithm.combine import combine, finite_mean
from common.rewards import (  # importing them registers the built-in rewards
    coin as coin,
    features as features,
    held_out as held_out,
    image as image,
    ocr as ocr,
    remote as remote,
)
from common.rewards.features import Features
from common.rewards.guard import RewardError, score
from common.rewards.registry import (
    FEATURES,
    REWARDS,
    Reward,
    RewardInfo,
    RewardNameError,
    available,
    check_names,
    create,
    register,
    register_reward,
)
from common.rewards.spec import Affine, Options, Spec, TorchOptions
from common.rewards.suite import RewardSuite, Scoring

__all__ = [
    "FEATURES",
    "REWARDS",
    "Affine",
    "Features",
    "Options",
    "Reward",
    "RewardError",
    "RewardInfo",
    "RewardNameError",
    "RewardSuite",
    "Scoring",
    "Spec",
    "TorchOptions",
    "available",
    "check_names",
    "combine",
    "create",
    "finite_mean",
    "register",
    "register_reward",
    "score",
]

"""Rewards: their names, the built-in ones, calling them safely and adding them up."""

from common.rewards import image as image  # registers the built-in rewards
from common.rewards.combine import RewardSuite, combine, finite_mean
from common.rewards.guard import RewardError, score
from common.rewards.registry import (
    Reward,
    RewardInfo,
    RewardNameError,
    available,
    create,
    register,
)

__all__ = [
    "Reward",
    "RewardError",
    "RewardInfo",
    "RewardNameError",
    "RewardSuite",
    "available",
    "combine",
    "create",
    "finite_mean",
    "register",
    "score",
]

"""Rewards that a run is measured with and does not maximise."""

from collections.abc import Collection

from common.backends import Backend
from common.config import RewardConfig
from common.rewards.registry import REWARDS, RewardNameError
from common.rewards.suite import RewardSuite


def maximised(reward: RewardConfig) -> frozenset[str]:
    """Registered names of the rewards that a run maximises."""
    return frozenset(str(reward.options.get(name, {}).get("reward", name)) for name in reward.terms)


def check(reward: RewardConfig, names: Collection[str]) -> None:
    """Raise RewardNameError for a name that the run maximises."""
    if both := maximised(reward) & set(names):
        raise RewardNameError(
            f"reward '{min(both)}' is maximised by the run, so it is not held out"
        )


def check_names(reward: RewardConfig, names: Collection[str]) -> None:
    """`check`, and RewardNameError for a name that is none; nothing is loaded."""
    check(reward, names)
    for name in names:
        REWARDS.check(name)


def suite(name: str, backend: Backend, reward: RewardConfig) -> RewardSuite:
    """One held-out reward with its default options. Raises RewardNameError."""
    config = RewardConfig(terms={name: 1.0}, timeout=reward.timeout)
    return RewardSuite(config.terms, backend, config)

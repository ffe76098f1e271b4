"""Whether the processes of a run were started alike: settings, libraries, device, files."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from common import machine
from common.backends import Backend
from common.config import Config, to_tables
from common.errors import PeerError
from common.evaluation import model_sample
from common.prompts import Prompt
from common.rewards import RewardSuite

__all__ = ["check_files", "check_settings"]

SILENT = ("settings",)
"""What is too long to be shown."""


def check_settings(engine: Backend, config: Config) -> None:
    """Raise PeerError unless all processes have the same settings, libraries and device."""
    if engine.world.size == 1:
        return
    facts = machine.facts()
    own = {
        "settings": json.dumps(to_tables(config), sort_keys=True),
        **{name: facts[name] for name in ("drift", "python", "numpy")},
        **engine.describe(),
    }
    _compare(engine, own)


def check_files(
    engine: Backend,
    config: Config,
    prompts: Iterable[Prompt] = (),
    rewards: RewardSuite | None = None,
) -> None:
    """Raise PeerError unless all processes have the same base model, prompts and rewards.

    The files of the model are sampled: see `model_sample.digest`. Rewards are compared by the
    version that they declare, of code and weights.
    """
    if engine.world.size == 1:
        return
    terms = {} if rewards is None else rewards.rewards
    words = [[prompt.id, prompt.text, dict(prompt.metadata)] for prompt in prompts]
    said = json.dumps(words, sort_keys=True, default=str).encode()
    own = {
        "the weights of the base model": model_sample.digest(config.model),
        "the prompts": hashlib.sha256(said).hexdigest(),
        **{f"the reward {name}": reward.version for name, reward in terms.items()},
    }
    _compare(engine, own)


def _compare(engine: Backend, own: Mapping[str, str]) -> None:
    """Raise PeerError for the first value that is known to two processes, and differs."""
    everyone = engine.world.share(lambda: dict(own), "comparing the processes")
    for rank, other in enumerate(everyone):
        for name, value in own.items():
            if value and other.get(name) and other[name] != value:
                shown = "" if name in SILENT else f": {_short(other[name])}, here {_short(value)}"
                raise PeerError(f"process {rank} differs from this one in {name}{shown}")


def _short(value: str) -> str:
    return f"{value[:8]}..." if len(value) == 2 * hashlib.sha256().digest_size else value

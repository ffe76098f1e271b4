"""DRIFT from Python: fine-tune image generators with reinforcement learning, measure, compare.

    import drift
    run = drift.train("emoji", set={"run.updates": 24}, out="runs/first")

Everything here is a name for something in `common`, which is imported when it is first used.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.backends import (
        Backend,
        Conditioning,
        DiffusionSchedule,
        FlowSchedule,
        Policy,
        Scorer,
        load as load_backend,
    )
    from common.config import Config
    from common.errors import DriftError as Error, RequestError
    from common.progress import NullObserver, Observer
    from common.rewards import register_reward
    from common.runs.directory import RunDirectory
    from common.trainer import Trainer
    from common.workflows.attainable import attainable
    from common.workflows.compare import Comparison, compare
    from common.workflows.evaluate import evaluate
    from common.workflows.evaluate_images import evaluate_images
    from common.workflows.images import Images
    from common.workflows.run import Run, open_run as open
    from common.workflows.sample import sample
    from common.workflows.train import load_config, train

__all__ = [
    "Backend",
    "Comparison",
    "Conditioning",
    "Config",
    "DiffusionSchedule",
    "Error",
    "FlowSchedule",
    "Images",
    "NullObserver",
    "Observer",
    "Policy",
    "RequestError",
    "Run",
    "RunDirectory",
    "Scorer",
    "Trainer",
    "attainable",
    "compare",
    "evaluate",
    "evaluate_images",
    "load_backend",
    "load_config",
    "open",
    "register_reward",
    "sample",
    "train",
]

_PLACES = {
    "Backend": "common.backends:Backend",
    "Comparison": "common.workflows.compare:Comparison",
    "Conditioning": "common.backends:Conditioning",
    "Config": "common.config:Config",
    "DiffusionSchedule": "common.backends:DiffusionSchedule",
    "Error": "common.errors:DriftError",
    "FlowSchedule": "common.backends:FlowSchedule",
    "Images": "common.workflows.images:Images",
    "NullObserver": "common.progress:NullObserver",
    "Observer": "common.progress:Observer",
    "Policy": "common.backends:Policy",
    "RequestError": "common.errors:RequestError",
    "Run": "common.workflows.run:Run",
    "RunDirectory": "common.runs.directory:RunDirectory",
    "Scorer": "common.backends:Scorer",
    "Trainer": "common.trainer:Trainer",
    "attainable": "common.workflows.attainable:attainable",
    "compare": "common.workflows.compare:compare",
    "evaluate": "common.workflows.evaluate:evaluate",
    "evaluate_images": "common.workflows.evaluate_images:evaluate_images",
    "load_backend": "common.backends:load",
    "load_config": "common.workflows.train:load_config",
    "open": "common.workflows.run:open_run",
    "register_reward": "common.rewards:register_reward",
    "sample": "common.workflows.sample:sample",
    "train": "common.workflows.train:train",
}
"""Public name -> its module:name."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'drift' has no attribute '{name}'")
    module, _, attribute = _PLACES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _check_common() -> None:
    """Raise ImportError where a module of the user's is imported instead of our `common`."""
    ours = Path(__file__).parents[1] / "common" / "__init__.py"
    loaded = sys.modules.get("common")
    spec = find_spec("common") if loaded is None else loaded.__spec__
    file = spec.origin if spec else getattr(loaded, "__file__", None)
    if file is not None and Path(file).resolve() != ours.resolve():
        raise ImportError(
            f"{file} has the name of the toolkit's package 'common' and is imported instead of it: "
            "rename that file or folder, or start Python in another folder"
        )


_check_common()

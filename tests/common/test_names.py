"""Names of rules, modes and schedules: what a configuration accepts is what the algorithm knows.

The configuration lists them for pydantic and for `--help`, the algorithm checks them itself.
"""

from typing import get_args

import numpy as np
import pytest

from common import config
from common.algorithm import advantage, annealing, kernels, prompt_noise, schedules, shaping, subset
from common.sampling.process import DDIMProcess, FlowProcess

KNOWN = {
    (config.SubsetConfig, "rule"): subset.RULES,
    (config.NoiseConfig, "form"): prompt_noise.FORMS,
    (config.NoiseConfig, "schedule"): annealing.SCHEDULES,
    (config.NoiseConfig, "axis"): annealing.AXES,
    (config.NoiseConfig, "training_schedule"): annealing.TRAINING_SCHEDULES,
    (config.ShapingConfig, "mode"): shaping.MODES,
    (config.ShapingConfig, "potential"): shaping.POTENTIALS,
    (config.ShapingConfig, "scaling"): shaping.SCALINGS,
    (config.ShapingConfig, "gate"): shaping.GATES,
    (config.ObjectiveConfig, "statistics"): advantage.STATISTICS,
    (config.RolloutConfig, "kernel"): (*FlowProcess.KERNELS, *DDIMProcess.KERNELS),
    (config.RolloutConfig, "schedule"): (*schedules.FLOW_SCHEDULES, "model"),
}


@pytest.mark.parametrize(
    ("table", "key"), KNOWN, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_configuration_offers_what_the_algorithm_knows(table, key):
    assert get_args(table.model_fields[key].annotation) == KNOWN[table, key]


def test_every_kernel_has_its_log_density():
    assert {*FlowProcess.KERNELS, *DDIMProcess.KERNELS} == kernels.LOG_PROBS.keys()


@pytest.mark.parametrize("rule", subset.RULES)
def test_a_rule_needs_keep_in_both_or_in_neither(rule):
    def refused(call):
        try:
            call()
        except ValueError as error:
            return "keep" in str(error)
        return False

    rewards = draws = np.arange(4.0).reshape(1, 4)
    in_algorithm = refused(lambda: subset.select(rewards, rule=rule, draws=draws))
    assert refused(lambda: config.SubsetConfig(rule=rule)) == in_algorithm

"""Names of rules, modes and schedules: each choice is listed once, and each name does something."""

import ast
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from common import config
from common.algorithm import kernels, subset

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "drift_torch", "drift_mlx")


def texts(node):
    """The texts of a sequence of at least two literal texts, else the empty set."""
    if not isinstance(node, ast.Tuple | ast.List | ast.Set):
        return frozenset()
    values = [part.value for part in node.elts if isinstance(part, ast.Constant)]
    every = len(values) == len(node.elts) >= 2 and all(isinstance(value, str) for value in values)
    return frozenset(values) if every else frozenset()


def listed():
    """(choice, file) of each `Literal`, and of each other list with the same texts."""
    literals, others = [], []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            inside = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                    inside.add(node.slice)
                    literals.append((texts(node.slice), str(path)))
                elif node not in inside and (choice := texts(node)):
                    others.append((choice, str(path)))
    choices = {choice for choice, _ in literals if choice}
    return [each for each in literals + others if each[0] in choices]


def test_each_choice_is_listed_once():
    places = listed()
    count = Counter(choice for choice, _ in places)
    assert len(count) > 20
    assert {choice: [at for other, at in places if other == choice] for choice in count} == {
        choice: [at] for choice, at in places
    }


def test_every_kernel_has_its_step_and_its_log_density():
    assert tuple(kernels.FLOW_KERNELS) == get_args(kernels.FlowKernel)
    assert all(step.__name__ == name for name, step in kernels.FLOW_KERNELS.items())
    assert tuple(kernels.LOG_PROBS) == get_args(kernels.Kernel)


@pytest.mark.parametrize("rule", get_args(subset.Rule))
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

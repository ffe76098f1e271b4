"""Each public function of the algorithm has an example in its docstring, and it is right."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

from common import algorithm

MODULES = sorted(module.name for module in pkgutil.iter_modules(algorithm.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_each_public_function_has_an_example_that_runs(name):
    module = importlib.import_module(f"common.algorithm.{name}")
    finder, runner = doctest.DocTestFinder(exclude_empty=False), doctest.DocTestRunner()
    tests = {test.name: test for test in finder.find(module, extraglobs={"np": np})}
    public = [each for each in module.__all__ if inspect.isfunction(getattr(module, each))]
    assert public
    for function in public:
        test = tests[f"{module.__name__}.{function}"]
        assert test.examples, f"{function} has no example"
        assert runner.run(test).failed == 0

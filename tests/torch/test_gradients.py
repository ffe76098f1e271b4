"""The scale of a loss in float16 leaves the gradients as they are, whatever scale is finite."""

import pytest

pytest.importorskip("torch")

import torch

from drift_torch.gradients import EXPONENTS, gradients_of


def loss(x, factor=1.0):
    return (x * torch.tensor([1.5, -2.0, 0.25])).sum() * factor


def test_scaled_gradients_are_those_without_a_scale():
    x, unused = torch.zeros(3, requires_grad=True), torch.ones(2, requires_grad=True)
    for half in (False, True):
        gradient, zeros = gradients_of(loss(x), [x, unused], half=half)
        assert gradient.tolist() == [1.5, -2.0, 0.25]
        assert zeros.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("largest", EXPONENTS)
def test_the_largest_scale_that_is_finite_counts(largest):
    x = torch.zeros(3, requires_grad=True)
    # 2 ** 128 is above float32: one power of two more than `largest` allows is infinite.
    factor = 2.0 ** (126 - largest)
    asked = []

    def more(wanted):
        asked.append(wanted)
        return wanted

    (gradient,) = gradients_of(loss(x, factor), [x], half=True, more=more)
    assert gradient.tolist() == [1.5 * factor, -2.0 * factor, 0.25 * factor]
    before = EXPONENTS.index(largest)
    assert asked == [True] * before + [False] * (largest > 0)


def test_one_that_has_its_gradients_goes_on_while_others_need_more():
    x, rounds = torch.zeros(3, requires_grad=True), iter([True, True, False])
    (gradient,) = gradients_of(loss(x), [x], half=True, more=lambda wanted: next(rounds))
    assert next(rounds, None) is None
    assert gradient.tolist() == [1.5, -2.0, 0.25]

"""Initial adapter values follow PEFT's distributions and depend on name and seed only."""

import numpy as np
import pytest

from common import adapter
from common.config import AdapterConfig

SHAPES = {"blocks.0.qkv": (384, 128), "blocks.0.m2": (128, 512)}


def test_kaiming_is_uniform_within_one_over_root_in_and_b_is_zero():
    values = adapter.initial(SHAPES, AdapterConfig(rank=64), seed=3)
    assert {name: v.shape for name, v in values.items()} == {
        "blocks.0.qkv.lora_A.weight": (64, 128),
        "blocks.0.qkv.lora_B.weight": (384, 64),
        "blocks.0.m2.lora_A.weight": (64, 512),
        "blocks.0.m2.lora_B.weight": (128, 64),
    }
    assert {v.dtype for v in values.values()} == {np.dtype(np.float32)}
    assert not values["blocks.0.qkv.lora_B.weight"].any()
    a, bound = values["blocks.0.m2.lora_A.weight"], 1 / np.sqrt(512)
    # 32,768 draws: standard error of the mean bound/sqrt(3 n), of the std about 0.25 %.
    assert abs(a.mean()) < 5 * bound / np.sqrt(3 * a.size)
    assert a.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert np.abs(a).max() <= bound
    assert np.abs(a).max() > 0.99 * bound


def test_gaussian_has_standard_deviation_one_over_rank():
    values = adapter.initial(SHAPES, AdapterConfig(rank=16, init="gaussian"), seed=3)
    a = values["blocks.0.m2.lora_A.weight"]
    assert a.std() == pytest.approx(1 / 16, rel=0.03)
    assert abs(a.mean()) < 5 / 16 / np.sqrt(a.size)


def test_a_draw_depends_on_seed_and_name_only():
    name = "blocks.0.qkv.lora_A.weight"
    both = adapter.initial(SHAPES, AdapterConfig(), seed=3)
    alone = adapter.initial({"blocks.0.qkv": (384, 128)}, AdapterConfig(), seed=3)
    other = adapter.initial(SHAPES, AdapterConfig(), seed=4)
    twin = adapter.initial({"blocks.1.qkv": (384, 128)}, AdapterConfig(), seed=3)
    np.testing.assert_array_equal(both[name], alone[name])
    assert not np.array_equal(both[name], other[name])
    assert not np.array_equal(both[name], twin["blocks.1.qkv.lora_A.weight"])


def test_targets_are_matched_by_their_last_part():
    linears = ["blocks.0.o", "blocks.0.qkv", "out", "blocks.1.o"]
    assert adapter.targets(linears, AdapterConfig(targets=("o",))) == ["blocks.0.o", "blocks.1.o"]
    with pytest.raises(ValueError, match="called 'to_q'; valid: o, out, qkv"):
        adapter.targets(linears, AdapterConfig(targets=("o", "to_q")))


def test_peft_names_go_there_and_back():
    values = adapter.initial(SHAPES, AdapterConfig(), seed=0)
    there = adapter.to_peft(values)
    assert "base_model.model.blocks.0.m2.lora_B.weight" in there
    assert adapter.from_peft(there).keys() == values.keys()

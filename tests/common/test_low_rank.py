"""Initial adapter values follow PEFT's distributions and depend on name and seed only."""

import numpy as np
import pytest

from common.adapters import low_rank
from common.config import AdapterConfig

SHAPES = {"blocks.0.qkv": (384, 128), "blocks.0.m2": (128, 512)}


def test_kaiming_is_uniform_within_one_over_root_in_and_b_is_zero():
    values = low_rank.initial(SHAPES, AdapterConfig(rank=64), seed=3)
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
    values = low_rank.initial(SHAPES, AdapterConfig(rank=16, init="gaussian"), seed=3)
    a = values["blocks.0.m2.lora_A.weight"]
    assert a.std() == pytest.approx(1 / 16, rel=0.03)
    assert abs(a.mean()) < 5 / 16 / np.sqrt(a.size)


def test_a_draw_depends_on_seed_and_name_only():
    name = "blocks.0.qkv.lora_A.weight"
    both = low_rank.initial(SHAPES, AdapterConfig(), seed=3)
    alone = low_rank.initial({"blocks.0.qkv": (384, 128)}, AdapterConfig(), seed=3)
    other = low_rank.initial(SHAPES, AdapterConfig(), seed=4)
    twin = low_rank.initial({"blocks.1.qkv": (384, 128)}, AdapterConfig(), seed=3)
    np.testing.assert_array_equal(both[name], alone[name])
    assert not np.array_equal(both[name], other[name])
    assert not np.array_equal(both[name], twin["blocks.1.qkv.lora_A.weight"])


def test_targets_are_matched_by_their_last_part():
    linears = ["blocks.0.o", "blocks.0.qkv", "out", "blocks.1.o"]
    assert low_rank.targets(linears, AdapterConfig(targets=("o",))) == ["blocks.0.o", "blocks.1.o"]
    with pytest.raises(ValueError, match="called 'to_q'; valid: o, out, qkv"):
        low_rank.targets(linears, AdapterConfig(targets=("o", "to_q")))


def test_peft_names_go_there_and_back():
    values = low_rank.initial(SHAPES, AdapterConfig(), seed=0)
    there = low_rank.to_peft(values)
    assert "base_model.model.blocks.0.m2.lora_B.weight" in there
    assert low_rank.from_peft(there).keys() == values.keys()


def test_a_scaled_adapter_is_its_b_times_the_scale_and_all_weights_go_straight_to_the_base():
    lora = {"qkv.lora_A.weight": np.float32([[2, 4]]), "qkv.lora_B.weight": np.float32([[3], [5]])}
    half = low_rank.scaled(lora, {}, AdapterConfig(), 0.5)
    assert half["qkv.lora_A.weight"].tolist() == [[2, 4]]
    assert half["qkv.lora_B.weight"].tolist() == [[1.5], [2.5]]
    base, tuned = {"out": np.float32([1, 0])}, {"out": np.float32([3, 8])}
    halfway = low_rank.scaled(tuned, base, AdapterConfig(kind="full"), 0.25)["out"]
    assert (halfway.dtype, halfway.tolist()) == (np.float32, [1.5, 2.0])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_scale_0_is_the_base_and_scale_1_what_was_trained_to_the_bit(kind):
    rng = np.random.default_rng(0)
    name = "qkv.lora_B.weight" if kind == "lora" else "qkv.weight"
    tuned = {name: np.append(rng.normal(size=99), -0.0).astype(np.float32)}
    zeros = np.zeros(100, dtype=np.float32)
    base = {name: zeros if kind == "lora" else rng.normal(size=100).astype(np.float32)}
    settings = AdapterConfig(kind=kind)
    assert (low_rank.scaled(tuned, base, settings, 0.0)[name] == base[name]).all()
    assert low_rank.scaled(tuned, base, settings, 1.0)[name].tobytes() == tuned[name].tobytes()

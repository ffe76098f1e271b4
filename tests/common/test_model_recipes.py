"""Recipes of real models: published numbers, DRIFT beside its baseline, and small GPUs."""

import pytest

from common import config
from common.config import differences, load, model, read_recipe
from common.prompts import load as load_prompts

REAL = {
    "sd15-aesthetic": "sd15-aesthetic-ddpo",
    "sd15-compressibility": "sd15-compressibility-ddpo",
    "sd15-24gb": "sd15-24gb-ddpo",
    "sd35m-pickscore": "sd35m-pickscore-grpo",
    "sd35m-ocr": "sd35m-ocr-grpo",
    "sd35m-fast": "sd35m-fast-grpo",
    "sd35m-24gb": "sd35m-24gb-grpo",
    "flux-dev-pickscore": "flux-dev-pickscore-grpo",
    "sd15-mac16": "sd15-mac16-ddpo",
    "sd35m-mac32": "sd35m-mac32-grpo",
    "flux-schnell-mac64": "flux-schnell-mac64-grpo",
}
NAME = frozenset({"run.recipe"})

PUBLISHED = {  # Black et al. 2023; Liu et al. 2025 and Wang and Yu 2025, with their code
    "sd15-aesthetic-ddpo": {
        "steps": 50, "guidance": 5.0, "kernel": "ddim", "noise_level": 1.0, "rank": 4,
        "clip_low": 1e-4, "clip_high": 1e-4, "kl_weight": 0.0, "ema_decay": 0.0, "images": 256,
        "evaluate": 50, "window": 0,
    },
    "sd35m-pickscore-grpo": {
        "steps": 10, "guidance": 4.5, "kernel": "flow_sde", "noise_level": 0.7, "rank": 32,
        "clip_low": 1e-4, "clip_high": 1e-4, "kl_weight": 0.01, "ema_decay": 0.9,
        "images": 48 * 24, "evaluate": 40, "window": 0,
    },
    "sd35m-fast-grpo": {
        "steps": 10, "guidance": 1.0, "kernel": "cps", "noise_level": 0.8, "rank": 32,
        "clip_low": 1e-5, "clip_high": 1e-5, "kl_weight": 0.0, "ema_decay": 0.9,
        "images": 48 * 24, "evaluate": 40, "window": 3,
    },
    "flux-dev-pickscore-grpo": {
        "steps": 6, "guidance": 1.0, "kernel": "flow_sde", "noise_level": 0.9, "rank": 64,
        "clip_low": 1e-4, "clip_high": 1e-4, "kl_weight": 0.0, "ema_decay": 0.9,
        "images": 48 * 24, "evaluate": 28, "window": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "numbers"), PUBLISHED.items(), ids=PUBLISHED)
def test_published_numbers(name, numbers):
    recipe = load(name)
    rollout, objective, optimizer = recipe.rollout, recipe.objective, recipe.optimizer
    assert numbers == {
        "steps": rollout.steps,
        "guidance": rollout.guidance,
        "kernel": rollout.kernel,
        "noise_level": rollout.noise_level,
        "rank": recipe.adapter.rank,
        "clip_low": objective.clip_low,
        "clip_high": objective.clip_high,
        "kl_weight": objective.kl_weight,
        "ema_decay": optimizer.ema_decay,
        "images": rollout.prompts * rollout.group_size,
        "evaluate": recipe.evaluate.steps,
        "window": rollout.window,
    }
    shared = (optimizer.learning_rate, optimizer.weight_decay, optimizer.eps)
    assert (*shared, optimizer.max_grad_norm) == (3e-4, 1e-4, 1e-8, 1.0)
    assert (objective.advantage_clip, recipe.adapter.init) == (5.0, "gaussian")
    scale = recipe.adapter.alpha / recipe.adapter.rank
    assert scale == (1.0 if recipe.model.family == "sd15" else 2.0)
    assert recipe.adapter.targets == model.TARGETS[recipe.model.family]


def test_steps_of_the_fast_recipe_are_in_the_first_half():
    assert list(load("sd35m-fast-grpo").rollout.window_steps) == [0, 1, 2, 3, 4]


def test_reading_text_has_its_own_prompts_reward_and_penalty():
    recipe = load("sd35m-ocr-grpo")
    changed = differences(load("sd35m-pickscore-grpo"), recipe, NAME)
    assert [line.partition(":")[0] for line in changed] == [
        "objective.kl_weight",
        "prompts.source",
        "reward.terms",
    ]
    assert (recipe.objective.kl_weight, recipe.reward.terms) == (0.04, {"ocr": 1.0})


@pytest.mark.parametrize(("drift", "plain"), REAL.items(), ids=REAL)
def test_drift_differs_from_its_baseline_by_its_mechanisms_alone(drift, plain):
    changed = differences(load(plain), load(drift), NAME)
    assert changed
    assert all(line.startswith("drift.") for line in changed)
    assert load(plain).drift == config.DriftConfig()
    mechanisms = load(drift).drift
    assert mechanisms.subset.rule != "none"
    assert mechanisms.noise.strength > 0
    assert mechanisms.shaping.weight > 0


@pytest.mark.parametrize(
    ("small", "full"), [("sd15-24gb", "sd15-aesthetic"), ("sd35m-24gb", "sd35m-fast")]
)
@pytest.mark.parametrize("kind", ["", "plain"])
def test_small_gpus_hold_less_at_once_and_train_the_same(small, full, kind):
    if kind:
        small, full = REAL[small], REAL[full]
    memory = {"model.offload", "model.gradient_checkpointing"}
    memory |= {"rollout.batch_size", "rollout.guidance_batch", "objective.micro_batch"}
    changed = {line.partition(":")[0] for line in differences(load(full), load(small), NAME)}
    assert changed - memory <= ({"rollout.prompts"} if "sd35m" in small else set())
    assert load(small).rollout.batch_size < load(full).rollout.batch_size
    assert load(small).objective.micro_batch < load(full).objective.micro_batch


@pytest.mark.parametrize("name", [name for pair in REAL.items() for name in pair if "mac" in name])
def test_recipes_for_macs_need_no_pytorch_and_go_on_elsewhere(name):
    recipe = load(name)
    assert recipe.reward.terms.keys() <= {"jpeg_compressibility", "ocr"}
    assert recipe.model.quantize == 0  # PyTorch could not go on with it
    assert recipe.model.offload
    assert recipe.model.gradient_checkpointing
    assert recipe.objective.micro_batch == 1


@pytest.mark.parametrize("name", [*REAL, *REAL.values()])
def test_a_recipe_says_what_it_is_and_has_prompts_enough(name):
    recipe, settings = read_recipe(name), load(name)
    assert 5 < len(recipe.description) < 90
    assert "arXiv:" in recipe.source
    prompts = load_prompts(settings.prompts)
    assert settings.rollout.prompts <= len(prompts)
    assert {p.text for p in prompts}.isdisjoint(
        p.text for p in load_prompts(settings.prompts.model_copy(update={"split": "test"}))
    )

"""The training loop keeps DRIFT's promises, on each backend.

The ratio is 1 before the first optimizer step whatever the kernel, window, guidance or prompt
noise; switched-off mechanisms leave the baseline bit for bit; batching changes nothing but
rounding; stopping and going on gives the same bytes.
"""

import json
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as read_tensors

from common.config import ConfigError
from common.progress import NullObserver
from common.rewards import RewardError
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from tests.slow import MLX_SLOW

DRIFT_OFF = ("drift.noise.strength=0.0", "drift.shaping.weight=0.0", "drift.subset.rule=none")


@pytest.fixture(scope="module")
def baseline(backend, tiny, train):
    """The directory of two updates of plain GRPO on this backend."""
    directory, _, _ = train(tiny(*DRIFT_OFF, "drift.shaping.mode=none"), backend)
    return directory


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (
            *("drift.noise.draw=step", "drift.noise.form=cads", "drift.noise.strength=0.4"),
            *("rollout.guidance=3.0", "rollout.guidance_batch=joined"),
        ),
        ("rollout.guidance=2.0", "rollout.kernel=dance_sde", "rollout.noise_level=0.3"),
        ("rollout.kernel=cps", "rollout.window=1", "objective.kl_weight=0.1"),
        ("rollout.schedule=double_shift", "adapter.kind=full", "objective.optimizer_steps=2"),
    ],
)
def test_ratio_is_one_before_the_first_optimizer_step(backend, tiny, train, changes):
    # Micro-batches that differ from the rollout's batches, so that batching is put to the test too.
    few = ("objective.micro_batch=5", "evaluate.prompts=1")
    _, record, _ = train(tiny(*few, *changes), backend)
    assert len(record.updates) == 2
    for row in record.updates:
        assert 0 <= row["objective/ratio_mean"] <= row["objective/ratio_max"] < 1e-6
        assert np.isfinite(row["objective/gradient_norm"])
        assert row["objective/gradient_norm"] > 0
        full = "adapter.kind=full" in changes  # one more gradient would be large
        assert np.isnan(row["objective/gradient_agreement"]) == full


@pytest.mark.parametrize("kl_weight", [0.0, 0.01])
def test_training_moves_the_policy_and_logs_every_promised_figure(backend, tiny, train, kl_weight):
    directory, record, finished = train(tiny(f"objective.kl_weight={kl_weight}"), backend)
    assert finished
    promised = {
        "update", "seconds", "images", "reward/mean", "reward/std", "reward/term/embedded",
        "subset/size", "subset/mean", "subset/std", "subset/best_dropped", "subset/fallback",
        "group/zero_std", "group/invalid", "diversity/group", "diversity/subset",
        "shaping/correlation", "shaping/variance_share", "objective/loss",
        "objective/clip_fraction", "objective/ratio_mean", "objective/ratio_max", "objective/kl",
        "objective/gradient_norm", "objective/gradient_agreement",
        "time/noise", "time/rollout", "time/reward", "time/update",
    }  # fmt: skip
    for row in directory.metrics():
        assert promised <= row.keys()
    assert all(abs(row["objective/gradient_agreement"]) <= 1 for row in directory.metrics())
    assert directory.metrics()[0]["objective/kl"] == 0.0  # the adapter starts as the reference
    assert directory.metrics()[1]["objective/kl"] > 0.0
    assert [row["update"] for row in directory.evaluations()] == [0, 2]
    assert (directory.path / "samples" / directory.evaluations()[0]["grid"]).exists()
    assert record.plan["images_per_update"] == 8
    assert record.plan["transitions_per_update"] == 8 * 2
    assert len(record.paths) == 2
    parts = [part for part in record.parts if part[0] != "training"]
    update = [("sampling", 0, 8), ("sampling", 8, 8), ("scoring", 0, 8)]
    evaluation = [("evaluating", 0, 4), ("evaluating", 4, 4)]
    assert parts == [*evaluation, *update, *update, *evaluation]
    trained = [(done, total) for stage, done, total in record.parts if stage == "training"]
    assert len(trained) > 2, "several micro-batches an update"
    assert sum(done == total for done, total in trained) == 2
    assert all(0 <= done <= total <= 8 * 2 for done, total in trained)


@pytest.mark.parametrize(("every", "measured"), [(0, [False, False]), (2, [True, False])])
def test_the_kl_is_measured_at_the_updates_that_are_asked_for(
    backend, tiny, tmp_path, every, measured
):
    config = tiny("rollout.prompts=1", f"objective.kl_every={every}")
    directory = RunDirectory.create(tmp_path / "run", config, {})
    stop = threading.Event()
    trainer = Trainer(config, backend, directory, observer=NullObserver(), stop=stop)
    policy: Any = trainer.policy
    references, reference = [], policy.reference
    policy.reference = lambda: references.append(1) or reference()
    rows = [trainer.step(), trainer.step()]
    assert [np.isfinite(row["objective/kl"]) for row in rows] == measured
    assert len(references) == sum(measured)
    assert all(row["objective/gradient_norm"] > 0 for row in rows)


def test_the_agreement_is_that_of_the_two_halves_of_the_gradient(backend, tiny, tmp_path):
    config = tiny("run.updates=1", "evaluate.prompts=1")
    directory = RunDirectory.create(tmp_path / "run", config, {})
    stop = threading.Event()
    trainer = Trainer(config, backend, directory, observer=NullObserver(), stop=stop)
    gradients, sums = trainer.learner.gradients, []

    def recorded(batch, onto=None):
        assert onto is None
        loss, auxiliary, total = gradients(batch, onto=onto)
        parts = [backend.to_numpy(total[name]).ravel() for name in sorted(total)]
        sums.append(np.concatenate(parts, dtype=np.float64))
        return loss, auxiliary, total

    trainer.learner.gradients = recorded
    row = trainer.step()
    first, rest = sums  # of two micro-batches, in lanes of their own
    cosine = first @ rest / np.linalg.norm(first) / np.linalg.norm(rest)
    assert row["objective/gradient_agreement"] == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("zeros", ["keep", "drop"])
def test_an_update_without_an_advantage_takes_a_step_only_where_zeros_are_kept(
    backend, tiny, train, tmp_path, monkeypatch, zeros
):
    code = "def score(images, prompts, metadata): return [1.0] * len(images)"
    (tmp_path / "level_reward.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    changes = ("run.updates=1", "evaluate.prompts=1", f"objective.zero_advantage={zeros}")
    config = tiny("reward.terms={'level_reward:score' = 1.0}", *changes)
    with pytest.warns(UserWarning, match="no optimizer step") if zeros == "drop" else nullcontext():
        directory, _, finished = train(config, backend)
    (row,) = directory.metrics()
    assert finished
    assert (row["group/zero_std"], row["subset/zero_advantage"]) == (1.0, 1.0)
    assert np.isnan(row["objective/loss"]) == (zeros == "drop")


@pytest.mark.parametrize(
    "off",
    [
        ("drift.shaping.mode=terminal", "drift.shaping.weight=0.0"),
        ("drift.shaping.mode=strict", "drift.shaping.weight=0.7"),
        ("drift.subset.rule=band", "drift.subset.alpha=100.0"),
        ("drift.noise.form=additive", "drift.noise.schedule=none", "drift.noise.strength=0.5"),
    ],
)
@MLX_SLOW
def test_a_mechanism_without_effect_is_the_baseline_bit_for_bit(
    backend, tiny, train, final_bytes, baseline, off
):
    variant, _, _ = train(tiny(*DRIFT_OFF, *off, "evaluate.prompts=1"), backend)
    assert final_bytes(variant) == final_bytes(baseline)


@pytest.mark.parametrize(
    "on",
    [
        ("drift.shaping.weight=0.7",),
        ("drift.shaping.weight=0.7", "drift.shaping.mode=per_step"),
        ("drift.shaping.weight=0.7", "drift.shaping.mode=multiplicative"),
        ("drift.shaping.weight=0.7", "drift.shaping.gate=above_base", "evaluate.prompts=0"),
        ("drift.subset.rule=window", "drift.subset.keep=3"),
        ("drift.subset.rule=random", "drift.subset.keep=3"),
        ("drift.noise.strength=0.5",),
        ("objective.kl_weight=0.5", "run.updates=2"),  # the first starts at the reference
        (
            "reward.combine=group_zscore",
            "reward.terms={embedded=10.0, jpeg_compressibility=1.0}",
        ),
    ],
)
@MLX_SLOW
def test_each_mechanism_changes_the_update(backend, tiny, train, final_bytes, baseline, on):
    few = ("evaluate.prompts=1", "run.updates=1")
    variant, record, _ = train(tiny(*DRIFT_OFF, *few, *on), backend)
    assert final_bytes(variant) != final_bytes(baseline, update=len(record.updates))
    assert np.isfinite(record.updates[-1]["objective/loss"])


def test_batching_changes_nothing_but_rounding(backend, tiny, train, final_bytes):
    # Weighed advantages do not sum to 0, and so the loss is a number worth comparing.
    changes = (
        *("run.updates=1", "evaluate.prompts=1"),
        *("drift.shaping.mode=multiplicative", "drift.shaping.weight=1.0"),
    )
    whole, first, _ = train(tiny(*changes), backend)
    smaller = ("rollout.batch_size=3", "objective.micro_batch=5")
    pieces, second, _ = train(tiny(*changes, *smaller), backend)
    loss = first.updates[0]["objective/loss"]
    assert abs(loss) > 1e-3
    assert second.updates[0]["objective/loss"] == pytest.approx(loss, rel=1e-3)
    one, other = read_tensors(final_bytes(whole)), read_tensors(final_bytes(pieces))
    # B starts at 0 and Adam's first step is lr x sign(gradient): compare where it did not flip.
    for name, value in one.items():
        agrees = np.isclose(value, other[name], rtol=1e-3, atol=1e-6)
        assert agrees.mean() > 0.99, name


@MLX_SLOW
def test_stopping_and_going_on_gives_the_same_bytes(backend, tiny, train, final_bytes):
    changes = (
        "run.updates=4",
        "optimizer.ema_decay=0.5",
        "optimizer.ema_every=1",
        "objective.optimizer_steps=2",
        "evaluate.every=2",
    )
    whole, _, _ = train(tiny(*changes), backend)
    parts, _, finished = train(tiny(*changes), backend, stop_after=2)
    assert not finished
    _, record, finished = train(tiny(*changes), backend, path=parts.path)
    assert finished
    assert [row["update"] for row in record.updates] == [3, 4]
    assert final_bytes(parts) == final_bytes(whole)
    assert [row["update"] for row in parts.metrics()] == [1, 2, 3, 4]
    assert [row["update"] for row in parts.evaluations()] == [0, 2, 4]

    def comparable(directory):
        rows = directory.metrics() + directory.evaluations()
        return json.dumps(
            [
                {k: v for k, v in r.items() if not k.startswith("time/") and k != "seconds"}
                for r in rows
            ]
        )

    assert comparable(parts) == comparable(whole)


@MLX_SLOW
def test_the_moving_average_is_what_is_evaluated(backend, tiny, train):
    average = ("optimizer.ema_decay=0.999", "optimizer.ema_every=1000")
    far = ("optimizer.learning_rate=0.01", "run.updates=1")
    directory, _, _ = train(tiny(*far, *average), backend)
    base, tuned = directory.evaluations()
    # The average never moved, so the evaluation must still see the base model.
    assert tuned["weights"] == "ema"
    assert tuned["reward_by_prompt"] == base["reward_by_prompt"]
    plain, _, _ = train(tiny(*far), backend)
    assert plain.evaluations()[1]["reward_by_prompt"] != base["reward_by_prompt"]


def test_a_dropped_sample_is_counted_and_a_failing_reward_stops_the_run(
    backend, tiny, train, tmp_path, monkeypatch
):
    (tmp_path / "flaky_reward.py").write_text(
        "import numpy as np\n"
        "def some(images, prompts, metadata):\n"
        "    scores = images.mean(axis=(1, 2, 3)) / 255\n"
        "    scores[::4] = np.nan\n"
        "    return scores\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    changes = ("run.updates=1", "evaluate.prompts=1", "reward.terms.flaky_reward:some=1.0")
    _, record, _ = train(tiny(*changes, "reward.on_error=drop"), backend)
    assert record.updates[0]["group/invalid"] == 2
    with pytest.raises(RewardError, match=r"flaky_reward:some.*rose|flaky_reward:some.*owl"):
        train(tiny(*changes), backend)


def test_too_few_prompts_is_one_clear_line(backend, tiny, train):
    with pytest.raises(ConfigError, match=r"rollout\.prompts = 3 is more than the 2 prompts"):
        train(tiny("rollout.prompts=3"), backend)


def test_an_update_without_any_score_stops_the_run(backend, tiny, train, tmp_path, monkeypatch):
    (tmp_path / "dead_reward.py").write_text(
        "import numpy as np\n"
        "def none(images, prompts, metadata):\n"
        "    return np.full(len(images), np.nan)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RewardError, match="update 1: 8 of 8 samples have no finite reward"):
        train(tiny("reward.terms.dead_reward:none=1.0", "reward.on_error=drop"), backend)

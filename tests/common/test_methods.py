"""Runs become methods, strengths and seeds; runs that cannot be compared give one line."""

import json
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.comparison import methods
from common.evaluation.measured_runs import StudyError
from common.evaluation.records import FILE, RecordError, Variant
from common.runs.directory import RunError

STUDY = runpy.run_path(str(Path(__file__).with_name("synthetic_study.py")))
make_run, PROMPTS, UPDATES = STUDY["make_run"], STUDY["PROMPTS"], STUDY["UPDATES"]
better_curve = STUDY["better_curve"]
TRAINED = tuple(Variant(update) for update in UPDATES)


def names(study):
    return {
        method.name: [(strength.label, len(strength.runs)) for strength in method.strengths]
        for method in study.methods
    }


def test_recipes_are_methods_configurations_strengths_and_seeds_repetitions(tmp_path):
    for seed in (2, 0):
        make_run(tmp_path / f"grpo-{seed}", seed=seed)
        for weight in (0.02, 0.1):
            overrides = [f"objective.kl_weight={weight}", "rollout.batch_size=12"]
            make_run(
                tmp_path / "below" / f"kl-{weight}-{seed}",
                recipe="emoji-kl", seed=seed, overrides=overrides,
            )  # fmt: skip
    study = methods.gather([tmp_path, tmp_path / "grpo-0"], "test")
    assert names(study) == {
        "emoji-kl": [("kl_weight 0.02", 2), ("kl_weight 0.1", 2)],
        "emoji-grpo": [("", 2)],
    }
    assert study.seeds == (0, 2)
    assert methods.plain(study).name == "emoji-grpo"
    kl = study.method("emoji-kl")
    assert kl.curves() == [range(5), range(5, 10)]
    assert [run.path.name for run in kl.strengths[1].runs] == ["kl-0.1-0", "kl-0.1-2"]


def test_values_are_those_of_the_records(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", seed=seed)
        make_run(tmp_path / f"b{seed}", seed=seed, overrides=["optimizer.learning_rate=1e-4"])
    (method,) = methods.gather([tmp_path], "test").methods
    values = method.values(["alignment_heldout", "frechet", "diversity"])
    assert values.shape == (2, len(PROMPTS), 10, 3)
    for s, strength in enumerate(method.strengths):
        for seed, run in enumerate(strength.runs):
            record = run.records[Variant(30)]
            got = values[seed, :, 5 * s + 3]
            np.testing.assert_array_equal(got[:, 0], record.by_prompt["alignment_heldout"])
            np.testing.assert_array_equal(got[:, 1], record.frechet)
            np.testing.assert_array_equal(got[:, 2], record.by_prompt["diversity"])


def test_scales_and_cads_at_inference_are_methods_of_their_own(tmp_path):
    variants = [
        *TRAINED,
        *(Variant(40, scale=scale) for scale in (0.5, 1.5)),
        *(Variant(update, prompt_noise=noise) for noise in (0.1, 0.3) for update in (0, 40)),
    ]
    make_run(tmp_path / "run", variants=variants)
    study = methods.gather([tmp_path / "run"], "test")
    assert names(study) == {
        "emoji-grpo": [("", 1)],
        "emoji-grpo, adapter scale": [("", 1)],
        "emoji-grpo, CADS": [("CADS 0.1", 1), ("CADS 0.3", 1)],
    }
    assert study.method("emoji-grpo").strengths[0].variants == TRAINED
    # What was trained is the scale of 1, between the others.
    assert [v.scale for v in study.method("emoji-grpo, adapter scale").strengths[0].variants] == [
        1.0, 0.5, 1.0, 1.5,
    ]  # fmt: skip
    with pytest.raises(StudyError, match=r"there are .*'emoji-grpo', 'emoji-grpo, .*'"):
        study.method("qqqq")
    weak, _ = study.method("emoji-grpo, CADS").strengths
    assert weak.variants == (Variant(0), Variant(0, prompt_noise=0.1), Variant(40, 1.0, 0.1))
    assert methods.plain(study).name == "emoji-grpo"


def test_aig_is_a_method_from_the_base_model_to_the_tuned_one(tmp_path):
    knobs = [Variant(40, aig=p) for p in (1.0, 4.0)] + [Variant(40, 1.0, 0.1, 2.0)]
    make_run(tmp_path / "run", variants=[*TRAINED, *knobs])
    study = methods.gather([tmp_path / "run"], "test")
    assert [*names(study)] == ["emoji-grpo", "emoji-grpo, AIG", "emoji-grpo, AIG, CADS 0.1"]
    (curve,) = study.method("emoji-grpo, AIG").strengths
    assert curve.variants == (Variant(0), *(Variant(40, aig=p) for p in (4.0, 1.0, 0.0)))
    assert methods.plain(study).name == "emoji-grpo"
    assert methods.words(knobs[-1]) == "update 40, CADS 0.1, AIG 2"


def test_of_two_ways_of_measuring_the_shared_one_with_more_images_counts(tmp_path):
    for name in "ab":
        run = make_run(tmp_path / name, recipe="emoji" if name == "b" else "emoji-grpo")
        kept = (run.path / FILE).read_bytes()
        shutil.rmtree(run.path)
        run = make_run(run.path, recipe=run.config.run.recipe, images=4)
        with (run.path / FILE).open("ab") as file:
            file.write(kept)
    extra = make_run(tmp_path / "c", images=16)
    with (tmp_path / "a" / FILE).open("ab") as file:
        file.write((extra.path / FILE).read_bytes())
    shutil.rmtree(extra.path)
    assert methods.gather([tmp_path], "test").protocol.images == 8


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {"prompts": ("rose", "owl", "fox", "ox")}, "measured on other prompts (4 and 4"),
        ({}, {"overrides": ["prompts.names=['fox']"]}, "trained on other prompts"),
        ({}, {"overrides": ["reward.terms.embedded=5.0"]}, "they maximise other rewards, {'emb"),
        ({}, {"model": "1" * 64}, "they have other base models (000000000000 and 111111111111)"),
        ({}, {"images": 6}, "they were measured with images = 8 and 6"),
        ({}, {"steps": 10}, "they were measured with steps = 20 and 10"),
        ({}, {"protocol_seed": 7}, "they were measured with seed = 0 and 7"),
    ],
)
def test_runs_that_differ_in_more_than_the_method_are_not_compared(tmp_path, one, other, expected):
    make_run(tmp_path / "a", **one)
    if (seed := other.pop("protocol_seed", None)) is not None:
        # `seed` of make_run is the training's.
        run = make_run(tmp_path / "b", recipe="emoji")
        text = (run.path / FILE).read_text()
        (run.path / FILE).write_text(text.replace('"seed": 0', f'"seed": {seed}'))
    else:
        make_run(tmp_path / "b", recipe="emoji", **other)
    with pytest.raises(StudyError, match="cannot be compared") as caught:
        methods.gather([tmp_path], "test")
    assert expected in str(caught.value)
    assert f"{tmp_path}/a and {tmp_path}/b" in str(caught.value)


def refusal(paths, split="test"):
    with pytest.raises(StudyError) as caught:
        methods.gather(paths, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_not_measured_says_which_command_measures_it(tmp_path):
    run = make_run(tmp_path / "run", variants=())
    assert f"{run.path} has no checkpoint to measure: train it with" in refusal([run.path])
    assert f"`drift run --resume --out {run.path}`" in refusal([run.path])
    checkpoint = run.checkpoints / "000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    expected = f"{run.path} was not measured: run `drift eval {run.path}`"
    assert refusal([run.path]) == expected


def test_other_measurements_than_needed_are_reported(tmp_path):
    run = make_run(tmp_path / "run", split="validation")
    assert "measured on validation prompts, not on test: run `drift eval" in refusal([run.path])
    assert methods.gather([run.path], "validation").protocol.split == "validation"
    base = make_run(tmp_path / "base", variants=[Variant(0)])
    assert "only the base model measured" in refusal([base.path])
    tuned = make_run(tmp_path / "tuned", variants=[Variant(10)])
    assert "no measurement of the base model" in refusal([tuned.path])
    single = make_run(tmp_path / "single", images=1)
    assert "1 image of each prompt, which has no diversity" in refusal([single.path])


def test_seeds_must_be_the_same_for_all(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"grpo{seed}", seed=seed)
    make_run(tmp_path / "drift", recipe="emoji", seed=1)
    line = refusal([tmp_path])
    assert "emoji has the seeds 1 and emoji-grpo has 0, 1" in line
    assert "run and measure those that are missing" in line


def test_the_same_run_twice_and_unequal_checkpoints_are_reported(tmp_path):
    make_run(tmp_path / "a")
    twin = make_run(tmp_path / "b", overrides=["checkpoint.every=5", "run.backend=cpu"])
    assert "are the same method, configuration and seed (0)" in refusal([tmp_path])
    shutil.rmtree(twin.path)
    make_run(twin.path, seed=1, variants=TRAINED[:-1])
    expected = f"{twin.path} was not measured at update 40, as {tmp_path}/a was"
    assert refusal([tmp_path]) == (
        f"{expected}, and has no checkpoint after update 40: train it further"
    )
    complete(twin, 10, 40)
    command = f"drift eval {twin.path} --split test --prompts 4 --images 8 --checkpoint 40"
    assert refusal([tmp_path]) == f"{expected}: run `{command}`"


def complete(run, *updates):
    """What makes folders look like checkpoints to those that only list them."""
    for update in updates:
        folder = run.checkpoints / f"{update:06d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")


def test_the_command_that_is_advised_measures_what_is_missing(tmp_path):
    scaled = [Variant(10, 0.5), Variant(20, 0.5), Variant(10, prompt_noise=0.25)]
    scaled.append(Variant(20, aig=2.0))
    make_run(tmp_path / "a", seed=1, variants=[*TRAINED, *scaled])
    run = make_run(tmp_path / "b c")
    complete(run, 10, 20, 30, 40)
    line = refusal([tmp_path])
    commands = line.partition("run `")[2].rstrip("`").split(" && ")
    sampling = "--split test --prompts 4 --images 8"
    assert sorted(" ".join(shlex.split(command)[3:]) for command in commands) == [
        f"{sampling} --checkpoint 10 --checkpoint 20 --scale 0.5",
        f"{sampling} --checkpoint 10 --prompt-noise 0.25",
        f"{sampling} --checkpoint 20 --aig 2.0",
    ]
    assert {shlex.split(command)[2] for command in commands} == {str(run.path)}
    shutil.rmtree(run.path)
    make_run(run.path, variants=[*TRAINED, *scaled])
    assert len(methods.gather([tmp_path], "test").methods) == 4


def test_the_length_of_a_run_counts_where_a_schedule_spans_it(tmp_path):
    schedule = "drift.noise.training_schedule=linear"
    for updates in (40, 80):
        overrides = [schedule, f"run.updates={updates}"]
        make_run(tmp_path / str(updates), recipe="emoji", overrides=overrides)
    (method,) = methods.gather([tmp_path], "test").methods
    assert [strength.label for strength in method.strengths] == ["updates 40", "updates 80"]


def test_a_baseline_exists_only_when_there_is_one(tmp_path):
    make_run(tmp_path / "drift", recipe="emoji")
    study = methods.gather([tmp_path], "test")
    with pytest.raises(StudyError, match=r"no method is plain GRPO: .* --baseline NAME \(emoji\)"):
        methods.plain(study)
    with pytest.raises(StudyError, match=r"no method 'emojj' among the runs.*emoji"):
        study.method("emojj")
    make_run(tmp_path / "kl", recipe="emoji-kl")  # a KL penalty counts where all have one
    assert methods.plain(methods.gather([tmp_path], "test")).name == "emoji-kl"
    make_run(tmp_path / "one")
    assert methods.plain(methods.gather([tmp_path], "test")).name == "emoji-grpo"
    make_run(tmp_path / "two", name="mine")
    with pytest.raises(StudyError, match=r"several methods are plain GRPO: .*emoji-grpo, mine"):
        methods.plain(methods.gather([tmp_path], "test"))


def test_folders_without_runs_and_damaged_ones_are_reported(tmp_path):
    assert f"no run in {tmp_path}" in refusal([tmp_path])
    with pytest.raises(RunError, match="it is not there"):
        methods.gather([tmp_path / "nowhere"], "test")
    run = make_run(tmp_path / "run")
    lines = (run.path / FILE).read_text().splitlines()
    record = json.loads(lines[2])
    del record["by_prompt"]["vendi"]
    (run.path / FILE).write_text("\n".join([*lines[:2], json.dumps(record), *lines[3:]]) + "\n")
    with pytest.raises(RecordError, match="line 3: the measure 'vendi' is missing"):
        methods.gather([tmp_path], "test")
    record = json.loads(lines[2])
    record["by_prompt"]["beauty"] = record["by_prompt"]["vendi"]
    (run.path / FILE).write_text("\n".join([*lines[:2], json.dumps(record), *lines[3:]]) + "\n")
    with pytest.raises(RecordError, match="line 3: 'beauty' is no measure under that protocol"):
        methods.gather([tmp_path], "test")
    for value in (1e300, "nan"):  # sums and products of them are not finite
        record = json.loads(lines[2])
        record["by_prompt"]["vendi"][1] = value
        changed = [*lines[:2], json.dumps(record), *lines[3:]]
        (run.path / FILE).write_text("\n".join(changed) + "\n")
        with pytest.raises(RecordError, match=r"line 3: 'vendi' is (1e\+300|nan), which is no mea"):
            methods.gather([tmp_path], "test")

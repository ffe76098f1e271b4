"""Every row of the GPU benchmark works with tiny models on a CPU, and the page is made from it.

The straight-line loop does the same work as the toolkit: its transitions are the kernels', and both
ask the network for as many images.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from common import config as configuration
from common.pipelines.architectures import documents
from drift_torch import full_size
from scripts import estimate_models, make_performance
from scripts.gpu_bench import models, provide, study, trace
from scripts.gpu_bench.context import Context
from scripts.gpu_bench.rows import ROWS
from scripts.peers import tables

ROOT = Path(__file__).parents[2]
RECIPES = ("sd15-24gb-ddpo", "sd35m-pickscore-grpo", "sd35m-fast-grpo", "flux-dev-pickscore-grpo")


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """What `gpu_bench.sh --tiny` wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("gpu")
    out = folder / "gpu_bench.json"
    environment = os.environ | {"DRIFT_WHEELS": str(folder / "none"), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_bench.sh"), "--tiny", "--out", str(out)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_bytes()), done.stdout, folder


@pytest.fixture
def context(tmp_path):
    return Context("row", "tiny", "cpu", tmp_path)


@pytest.mark.slow
def test_every_row_is_done_on_a_cpu(document):
    written, said, folder = document
    assert {name: row["status"] for name, row in written["rows"].items()} == {
        row.name: "done" for row in ROWS
    }
    assert f"{len(ROWS)} done, 0 failed, 0 skipped" in said
    assert written["mode"] == "tiny"
    assert written["machine"]["torch"] == torch.__version__
    assert len(written["machine"]["sources_sha256"]) == 64
    assert (folder / "gpu_bench.trace.json.gz").stat().st_size > 1000


@pytest.mark.slow
def test_figures_are_those_of_work_that_was_done(document):
    rows = {name: row["figures"] for name, row in document[0]["rows"].items()}
    assert rows["rates"]["products"]["float32"]["median"] > 1e8
    for name in ("sd3-fast", "sd3-grpo-compiled", "sd15-24gb", "flux"):
        figures = rows[name]
        assert figures["images_per_update"] == 2
        assert 0 < figures["rollout_s"]["median"] < figures["update_s"]["median"]
        assert 0 < figures["outside_the_model"] < 1
        assert max(figures["estimate_bytes"].values()) > 1e5
    assert rows["straight-sd3-grpo"]["speed_of_ours"]["median"] > 0
    parity = rows["parity-sd3"]["dtypes"]
    assert parity.keys() == {"float32", "bfloat16"}
    assert len(parity["float32"]["stages"]) > 10
    assert not any(found["over"] for found in parity.values())
    assert rows["resume"]["same_bytes"]
    assert rows["tests"]["tests"] == 1
    assert rows["tests"]["skipped"] == 0
    assert [run["method"] for run in rows["study"]["runs"]] == ["emoji-grpo", "emoji"]
    assert rows["study"]["pairs"]["seeds"] == [0]
    assert rows["mlx"]["parity"]["over"] == []


def test_a_study_takes_small_steps_and_many(tmp_path):
    full = Context("study", "full", "cuda", tmp_path)
    plain = configuration.load("emoji-grpo")
    config = configuration.load("emoji-grpo", study.changes("emoji-grpo", full))
    assert config.optimizer.learning_rate == plain.optimizer.learning_rate / 4
    assert config.run.updates == config.evaluate.every == 4 * plain.run.updates
    shown = dict.fromkeys(study.SHOWN, 1.0)
    runs = [
        {"seed": 3, "method": "emoji-grpo", "last": shown},
        {"seed": 3, "method": "emoji", "last": shown | {"diversity": 1.5}},
        {"seed": 4, "method": "emoji", "last": shown},
    ]
    found = study.pairs(runs)
    assert found["seeds"] == [3]
    assert found["differences"]["diversity"]["median"] == 0.5
    assert study.pairs(runs[2:]) == {"seeds": []}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_full_run_measures_the_recipe_unchanged(recipe, tmp_path):
    """But for the prompts of an update, the reward and the evaluations."""
    config = models.configured(Context("row", "full", "cuda", tmp_path), recipe)
    own = configuration.load(recipe)
    assert config.model == own.model
    assert config.objective == own.objective.model_copy(update={"zero_advantage": "keep"})
    assert config.optimizer == own.optimizer
    assert config.rollout == own.rollout.model_copy(update={"prompts": 1})
    smoke = models.configured(Context("row", "smoke", "cuda", tmp_path), recipe)
    assert smoke.model == own.model
    assert smoke.rollout.steps < own.rollout.steps
    assert smoke.rollout.kernel == own.rollout.kernel


@pytest.mark.parametrize("family", ["sd15", "sd3", "flux"])
def test_a_shallow_model_has_the_published_widths(family):
    full, shallow = documents(family, None), documents(family, None, size="shallow")
    assert full.keys() == shallow.keys()
    for name, document in full.items():
        changed = {key for key in document if document[key] != shallow[name][key]}
        assert changed <= {"num_layers", "num_single_layers", "num_hidden_layers"}
        assert shallow[name].keys() - document.keys() <= {"layers_per_block"}
    assert any(full[name] != shallow[name] for name in full)


def test_a_trace_too_large_keeps_the_kernels(tmp_path):
    class Record:
        def export_chrome_trace(self, path):
            draws = np.random.default_rng(0)
            events = [{"cat": "kernel", "ts": 0, "dur": 5}]
            events += [
                {"cat": kind, "name": draws.bytes(3000).hex()}
                for kind in ("cpu_op", "python_function")
            ]
            Path(path).write_text(json.dumps({"traceEvents": events}))

    path = tmp_path / "a.trace.json.gz"
    assert trace.shrink(Record(), path, most=10_000) == "everything"
    assert "cpu_op" in trace.shrink(Record(), path, most=4_000)
    assert trace.shrink(Record(), path, most=1_000) == "gpu_memcpy, gpu_memset, kernel"
    assert trace._busy(path) == pytest.approx(5e-6)
    with pytest.raises(RuntimeError, match="even the kernels"):
        trace.shrink(Record(), path, most=10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_family_can_be_made_and_its_arithmetic_counted(recipe, context):
    """A forward and a backward pass cost two to four forward passes: the weights are frozen."""
    config = models.configured(context, recipe)
    device = torch.device("cpu")
    policy = full_size.policy(config.model, config.adapter, device=device, size="tiny")
    assert policy.encode(["owl"]).tokens.isfinite().all()
    assert policy.decode(torch.zeros(1, *policy.latent_shape)).shape == (1, 32, 32, 3)
    shape = full_size.without_content(config.model, config.adapter, size="tiny")
    found = estimate_models.flops(shape, config)
    one = found["sampling"] / config.rollout.steps
    trained = estimate_models.plan_steps(config.rollout, seed=0, update=0).trained
    references = 1 if config.objective.kl_weight else 0
    constant = config.rollout.guidance != 1 and config.rollout.guidance_gradient == "conditional"
    null = 0.5 if constant else 0.0  # a forward pass of the null branch, without a backward one
    learned = found["learning"] / len(trained) / one - references
    assert 2 <= (learned - null) / (1 - null) < 4


@pytest.mark.slow
def test_the_larger_recipe_for_24_gb_is_estimated_under_22():
    config = configuration.load("sd35m-24gb-grpo")
    policy = full_size.without_content(config.model, config.adapter)
    trained = sum(value.numel() for value in policy.parameters().values())
    parameters = sum(value.numel() for value in policy.module.parameters()) - trained
    assert parameters == 2_243_171_520
    memory = estimate_models.estimate.stages(policy, config, estimate_models.PROMPT)
    assert memory.keys() == {"rollout", "encoding", "decoding", "update"}
    assert min(memory.values()) > 2 * parameters  # two bytes for each weight
    assert max(memory.values()) < 22e9


# --- packages ------------------------------------------------------------------------------------


def test_a_folder_of_the_toolkit_has_its_names_and_no_package_twice(tmp_path):
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    site = provide.provide(tmp_path / "none", root=tmp_path)
    code = (
        "from importlib.metadata import entry_points, version;"
        "print(sorted(p.name for p in entry_points(group='drift.backends')))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['cpu', 'cuda', 'mlx']\n"
    present = Path("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl")
    absent = Path("no_such_package-1.0-py3-none-any.whl")
    assert provide.missing([present, absent]) == [absent]
    (tmp_path / absent).write_bytes(b"no wheel")
    with pytest.raises(ValueError, match=r"wheels in .* do not fit Python 3\.\d+: "):
        provide.provide(tmp_path, root=tmp_path)


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_that_of_the_stored_documents():
    page = make_performance.DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    assert make_performance.filled(text, make_performance.DOCS / "results") == text
    blocks = {match[2] for match in make_performance.BLOCK.finditer(text)}
    assert blocks == make_performance.TABLES.keys() | tables.TABLES.keys()


@pytest.mark.slow
def test_a_measured_row_enters_the_page_and_a_newer_one_replaces_it(document, tmp_path):
    measured = json.loads(json.dumps(document[0]))
    measured["mode"] = "full"
    measured["machine"] |= {"device": "Some GPU", "memory": 80e9, "driver_version": "1.2"}
    for name, row in measured["rows"].items():
        if "peak_bytes" in row["figures"]:
            sizes = {"tensors": 5e10, "reserved": 6e10}
            both = {"ours": sizes, "straight": sizes}
            row["figures"]["peak_bytes"] = both if name.startswith("straight") else sizes
    measured["rows"]["trace"]["figures"]["busy_s"] = measured["rows"]["trace"]["figures"][
        "update_s"
    ]
    docs = tmp_path / "docs"
    (docs / "results" / "gpu").mkdir(parents=True)
    for name in ("performance.md", "results/arithmetic.json"):
        (docs / name).write_bytes((make_performance.DOCS / name).read_bytes())
    older = measured | {"began": "2000-01-01T00:00:00Z"}
    older = json.loads(json.dumps(older).replace("Some GPU", "An old GPU"))
    newer = json.loads(json.dumps(measured))
    del newer["rows"]["resume"]
    newer["rows"]["tests"]["status"] = "failed"
    for name, one in {"a": newer, "b": older, "c": document[0]}.items():
        (docs / "results" / "gpu" / f"{name}.json").write_text(json.dumps(one))
    result = CliRunner().invoke(make_performance.main, ["--docs", str(docs)])
    assert result.exit_code == 0, result.output
    text = (docs / "performance.md").read_text(encoding="utf-8")
    on_gpus = text.split("## Measured on GPUs", 1)[1]
    assert make_performance.NONE not in on_gpus.replace('"Not measured"', "")
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert "Some GPU" in lines["sd3-fast"]
    assert "50.0 GB" in lines["sd3-fast"]
    assert "An old GPU" in lines["resume"]
    assert "the same bytes" in lines["resume"]
    assert "An old GPU" in lines["tests"]
    assert "cpu only" not in text
    figures = measured["rows"]["flux"]["figures"]
    rate = figures["images_per_update"] / figures["update_s"]["median"]
    assert f"{rate:.2f} (" in lines["flux"]
    assert (
        CliRunner().invoke(make_performance.main, ["--docs", str(docs), "--check"]).exit_code == 0
    )

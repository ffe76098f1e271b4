"""The straight-line loops do the work of the toolkit, and the page is made from what is stored.

Gradients are compared on the same transitions, network calls are counted on both sides, and the
transitions of the loops are those of the kernels.
"""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from common.algorithm import kernels
from common.backends import load
from common.pipelines.architectures import documents
from scripts import bench_peers
from scripts.peers import beside, loop as loops, tables
from scripts.peers.setup import CASES, case, trained
from scripts.peers.turns import Cost, Phase, in_turn, ratios

FEW = ("rollout.group_size=2", "rollout.batch_size=2", "objective.micro_batch=2")


@pytest.fixture(params=CASES)
def pair(request, monkeypatch):
    """(trainer, straight-line loop) of a tiny model with the same weights."""
    # JPEG sizes of two tiny images may be equal, and then there is nothing to learn.
    monkeypatch.setattr(loops, "_jpeg_kilobytes", lambda image: float(image.mean()))
    config = case(request.param, "tiny", FEW)
    with trained(config, load("cpu"), "tiny") as trainer:
        loop = loops.straight_loop(config, trainer.policy, trainer.process, "tiny")
        beside.same_weights(trainer.policy.module, loop.denoiser)
        yield trainer, loop


def test_the_straight_line_has_the_same_gradients_and_calls(pair):
    trainer, loop = pair
    assert beside.gradient_error(trainer, loop) < 2e-5
    networks = trainer.policy.module, loop.denoiser.base_model.model
    counts = [beside.Calls(network).counts for network in networks]
    before = [p.detach().clone() for p in loop.trained]
    trainer.step(), loop.step()
    ours, theirs = counts
    config = loop.config
    branches = 1 if config.rollout.guidance == 1 else 2
    # Where the loss has no KL, one is measured and logged.
    measured = 0 if config.objective.kl_weight else branches * loop.images
    asked = [sum(n for name, n in count.items() if "images" in name) for count in counts]
    assert asked[0] - asked[1] == measured
    constant = config.rollout.guidance_gradient == "conditional" and branches == 2
    trained_images = theirs["images with gradients"]
    assert ours["images with gradients"] == trained_images // (2 if constant else 1)
    assert any((a != b).any() for a, b in zip(before, loop.trained, strict=True))
    assert all(p.isfinite().all() for p in loop.trained)


@pytest.mark.parametrize("kernel", ["flow_sde", "cps", "ddim"])
@pytest.mark.parametrize("step", [0, 2])
def test_transitions_of_the_straight_line_are_the_kernels(kernel, step):
    name = {"flow_sde": "sd3-guided", "cps": "sd3", "ddim": "sd15-guided"}[kernel]
    kind = loops.DiffusionLoop if kernel == "ddim" else loops.FlowLoop
    loop = kind.__new__(kind)
    loop.config = case(name, "tiny")
    loop.levels = [1.0, 0.9, 0.7, 0.4, 0.0] if kernel != "ddim" else [0.1, 0.3, 0.6, 0.9]
    loop.following = loop.levels[1:]
    level = loop.config.rollout.noise_level
    x, v = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.manual_seed(0)).chunk(2)
    mean, std = loop.moments(x, v, step)
    s, following = (torch.tensor([loop.levels[step + k]], dtype=torch.float64) for k in (0, 1))
    more = {"sigma_max": 0.9} if kernel == "flow_sde" else {}
    expected = getattr(kernels, kernel)(x, v, s, following, eta=level, **more)
    torch.testing.assert_close(mean, expected.mean)
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), expected.std.flatten()[0])
    sample = x + 0.1
    torch.testing.assert_close(
        loop.log_prob(sample, mean, std), kernels.LOG_PROBS[kernel](sample, *expected)
    )


@pytest.mark.parametrize("family", ["sd15", "sd3", "flux"])
def test_a_middle_model_has_the_parts_of_the_full_one(family):
    full, middle = documents(family, None), documents(family, None, size="middle")
    assert full.keys() == middle.keys()
    assert middle["vae"]["latent_channels"] == full["vae"]["latent_channels"]


# --- turns ---------------------------------------------------------------------------------------


def test_steps_take_turns_and_a_phase_is_a_part_of_its_step():
    order = []

    class Worker:
        def step(self):
            order.append("step")
            self.inner()

        def inner(self):
            sum(range(20_000))

    worker = Worker()
    phase = Phase(worker, "inner")
    turns = in_turn({"a": worker.step, "b": lambda: order.append("b")})
    costs = [next(turns) for _ in range(3)]
    assert order == ["step", "b"] * 3
    inside = phase.taken()
    assert 0 < inside.wall < sum(cost["a"].wall for cost in costs)
    assert phase.taken() == Cost(0.0, 0.0)
    found = ratios([Cost(2.0, 3.0)], [Cost(1.0, 2.0)])
    assert found["cpu"]["median"] == 2.0
    assert found["wall"]["median"] == 1.5


# --- the command ---------------------------------------------------------------------------------


def test_parts_that_are_stored_are_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def run(command, check):
        asked.append(command[command.index("--worker") + 1])
        return type("Done", (), {"returncode": 3 if asked[-1] == "growth-steps" else 0})

    monkeypatch.setattr(bench_peers.subprocess, "run", run)
    (tmp_path / "growth-group.json").write_text("{}")
    words = ["--parts", "growth", "--out", str(tmp_path)]
    result = CliRunner().invoke(bench_peers.main, words)
    assert asked == ["growth-prompts", "growth-steps"]
    assert "growth-group: stored" in result.output
    assert "growth-steps: failed with exit code 3" in result.output
    assert result.exit_code == 1
    CliRunner().invoke(bench_peers.main, [*words, "--again"])
    assert asked[2:] == ["growth-group", "growth-prompts", "growth-steps"]


def test_an_unknown_part_is_refused():
    result = CliRunner().invoke(bench_peers.main, ["--parts", "speed"])
    assert result.exit_code == 1
    assert "--parts speed: valid: straight-sd3-tiny" in result.output
    result = CliRunner().invoke(bench_peers.main, ["--parts", ","])
    assert result.exit_code == 1
    assert "--parts ',' names none" in result.output


def test_a_part_is_stored_with_its_machine_and_enters_the_tables(tmp_path, monkeypatch):
    one = {"median": 1.25, "min": 1.0, "max": 1.5, "repeats": 3}
    cost = {"cpu": one, "wall": one}
    both = {"ours": cost, "straight": cost, "speed": cost}
    figures = {
        **dict.fromkeys(("whole", "sampling", "training"), both),
        "images": 4,
        "outside": 0.0123,
        "peak_bytes": {"ours": 1e9, "straight": 2e9},
        "gradient_error": 3e-6,
        "calls": {"ours": {"calls without": 2, "images without": 8}, "straight": {}},
    }
    points = [{"value": v, "units": v, "cpu": one} for v in (4, 8)]
    made = {
        "straight-sd3-tiny": figures,
        "growth-group": {"key": "rollout.group_size", "counts": "images", "points": points},
        "switch-kl": {"case": "c", "off": "a=1", "on": "a=2", "speed": cost},
        "backends-emoji": {
            "case": "emoji",
            "first": "cpu",
            "update": {"cpu": cost, "mlx": cost},
            "ratio": {"mlx": cost},
        },
        "waiting": dict.fromkeys(bench_peers.AIMS, cost),
    }
    software = dict.fromkeys(("torch", "mlx", "diffusers", "peft"), "1.0")
    facts = {"processor": "a processor", "cores": 2, "versions": software}
    monkeypatch.setattr(bench_peers.machine, "facts", lambda: facts)
    for name, value in made.items():
        monkeypatch.setitem(bench_peers.PARTS, name, lambda pairs, value=value: value)
        bench_peers.store(name, 1, tmp_path)
    parts = tables.read(tmp_path)
    assert parts.keys() == made.keys()
    text = {name: render(parts) for name, render in tables.TABLES.items()}
    assert "1.25 x (1.00 to 1.50)" in text["peers"]
    assert "1000 : 2000 MB" in text["peers"]
    assert "2 (8) without gradients" in text["peers-calls"]
    assert "4: 312.5, 8: 156.2" in text["growth"]
    assert "| emoji | `mlx` |" in text["backends"]
    assert "under 0.2 s" in text["waiting"]
    assert "| `a=2` | `a=1` |" in text["switches"]
    assert "a processor, " in text["peers-machines"]
    assert "torch 1.0, mlx 1.0" in text["peers-machines"]
    assert tables.plot(parts).startswith(b"<?xml")
    assert np.all([tables.NONE in render({}) for render in tables.TABLES.values()])
    assert "| sd3 | tiny | 1.25 x" in tables.short(parts)

"""`drift doctor --bench`: what is measured by default, what is refused, and the block it prints."""

import json
from types import SimpleNamespace

import pytest

from common import backends
from common.backends import BackendUnavailableError
from common.machine import bench
from common.machine.bench import Case, FailedError, Measurement, RefusedError

NO_GPU = "sd15, sd35m, flux-schnell skipped on cpu: no GPU; --model sd15 runs it anyway"


def measurement(backend, model):
    sizes = {"dtype": "float32", "pixels": 32, "batch": 48, "images": 96, "steps": 10, "trained": 4}
    seconds = {"forward": 0.1254, "update": 4.8, "guidance": 1.0}
    return Measurement(backend, model, **sizes, **seconds, peak=1_234_000_000)


@pytest.fixture
def machine(monkeypatch):
    """(GPUs by backend, errors by model) -> the cases that are then measured."""

    def made(gpus, errors=()):
        cases = []

        def measure_in_subprocess(case, on_stage):
            cases.append(case)
            on_stage("update 1 of 3")
            if error := dict(errors).get(case.model):
                raise error
            return measurement(case.backend, case.model)

        def load(name):
            if name not in gpus:
                raise BackendUnavailableError(f"{name} is not here")
            return SimpleNamespace(name=name, gpu=gpus[name], describe=lambda: {"device": "a chip"})

        monkeypatch.setattr(bench, "measure_in_subprocess", measure_in_subprocess)
        monkeypatch.setattr(backends, "load", load)
        monkeypatch.setattr(backends.registry, "load", load)  # which `probe` calls
        monkeypatch.setattr(backends, "names", lambda: ["cpu", "cuda", "mlx"])
        return cases

    return made


def test_without_a_gpu_the_embedded_model_alone_is_measured_and_why_is_printed(drift, machine):
    cases = machine({"cpu": False, "mlx": False})
    result = drift("doctor", "--bench")
    assert result.exit_code == 0
    assert cases == [Case("cpu", "embedded"), Case("mlx", "embedded")]
    lines = result.stdout.splitlines()
    assert lines[0] == lines[-1] == "```"
    assert NO_GPU in lines
    assert NO_GPU.replace("cpu", "mlx") in lines
    assert "embedded: an update is 96 images of 10 steps, 4 of them trained, no guidance" in lines
    head = next(line for line in lines if line.startswith("backend"))
    row = next(line for line in lines if line.startswith("cpu       embedded"))
    for column, value in {
        "forward": "0.125 s of 48",
        "update": "4.8 s of 96",
        "images/s": "20",
        "peak memory": "1.23 GB",
    }.items():
        assert row[head.index(column) :].startswith(value)
    assert any(line.split() == ["cpu", "device", "a", "chip"] for line in lines)
    assert "cpu, embedded: update 1 of 3\n" in result.stderr


def test_on_a_gpu_the_largest_model_that_fits_is_measured_too(drift, machine):
    refused = {"flux-schnell": RefusedError("flux-schnell does not fit on mlx: 34.6 GB")}
    cases = machine({"mlx": True}, refused)
    result = drift("doctor", "--bench", "--json")
    assert result.exit_code == 0
    assert [case.model for case in cases] == ["embedded", "flux-schnell", "sd35m"]
    document = json.loads(result.stdout)
    assert [row["model"] for row in document["measurements"]] == ["embedded", "sd35m"]
    assert document["measurements"][0]["images_per_second"] == 96 / 4.8
    assert document["skipped"] == ["flux-schnell does not fit on mlx: 34.6 GB"]
    assert {"system", "chip", "memory", "load", "mlx"} <= document["machine"].keys()


def test_what_is_asked_for_is_measured_and_nothing_else(drift, machine):
    cases = machine({"cpu": False, "mlx": True})
    words = ["--backend", "cpu", "--model", "sd15", "--model", "embedded"]
    result = drift("doctor", "--bench", *words)
    assert result.exit_code == 0
    assert cases == [Case("cpu", "sd15"), Case("cpu", "embedded")]
    assert "skipped" not in result.stdout


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RefusedError("sd15 does not fit on cpu: 9 GB"), 2, "sd15 does not fit on cpu: 9 GB"),
        (FailedError("out of memory, update"), 1, "sd15 broke on cpu: out of memory, update"),
    ],
)
def test_what_cannot_be_measured_is_reported_beside_what_can(
    drift, refused, machine, error, code, line
):
    machine({"cpu": False}, {"sd15": error})
    result = drift("doctor", "--bench", "--model", "sd15", "--model", "embedded")
    assert result.exit_code == code
    assert line in result.stdout.splitlines()
    assert "cpu       embedded" in result.stdout
    alone = drift("doctor", "--bench", "--model", "sd15")
    assert (alone.exit_code, alone.stdout) == (code, "")
    assert alone.stderr.splitlines()[-1] == f"drift: {line}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--bench", "--model", "sd51"], "--model sd51; did you mean 'sd15'? (valid: embedded,"),
        (["--bench", "--backend", "cuda"], "cuda is not here"),
        (["--backend", "cpu"], "--backend is for --bench"),
        (["--model", "sd15"], "--model is for --bench"),
        (["--set", "model.compile=true"], "--set is for --bench"),
    ],
)
def test_a_wrong_request_is_one_line(refused, machine, words, line):
    machine({"cpu": False})
    assert line in refused(2, "doctor", *words)


def test_settings_are_changed_and_printed(drift, machine):
    cases = machine({"cpu": False})
    result = drift("doctor", "--bench", "--model", "sd15", "--set", "model.compile=true")
    assert cases == [Case("cpu", "sd15", ("model.compile=true",))]
    settings = next(line for line in result.stdout.splitlines() if line.startswith("settings"))
    assert settings.split() == ["settings", "model.compile=true"]


def test_an_unknown_backend_gets_the_nearest_one(refused):
    assert "no backend 'cpuu'" in refused(2, "doctor", "--bench", "--backend", "cpuu")


def test_ctrl_c_ends_it(drift, machine, monkeypatch):
    machine({"cpu": False}, {"embedded": KeyboardInterrupt()})
    result = drift("doctor", "--bench")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr

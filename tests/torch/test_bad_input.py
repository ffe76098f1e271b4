"""What a run of a real model cannot do is told by the command in one line, with exit code 2.

The hub is never asked: its errors are raised where it would be.
"""

import shutil

import huggingface_hub
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from common.cli import drift
from common.config import ModelConfig
from drift_torch import loading


def refused(tmp_path, *changes):
    """The one line of a run that is refused, before anything is left on disk."""
    own = ("model.dtype=float32", *changes)
    words = [word for text in own for word in ("--set", text)]
    start = ["run", "sd15-compressibility", "--backend", "cpu", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(drift, [*start, *words])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("drift: ")
    assert not (tmp_path / "run").exists()
    return line


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.RepositoryNotFoundError, "the hub has no such repository"),
        (errors.GatedRepoError, "its licence must be accepted on the hub first; then `hf auth lo"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached; download it where there is a"),
        (errors.OfflineModeIsEnabled, "the hub cannot be reached"),
        (ConnectionError, "cannot be loaded: no route"),
    ],
)
def test_the_hub_refuses_or_is_out_of_reach(kind, says, tmp_path, monkeypatch):
    def download(*_, **__):
        # Some constructors take a response, which differs by version.
        raise kind("no route") if kind is ConnectionError else kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    line = refused(tmp_path, "model.path=somebody/something")
    assert "model.path = 'somebody/something'" in line
    assert says in line


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("sd3", (), "holds a StableDiffusion3Pipeline, not a StableDiffusionPipeline: model.fam"),
        ("sd15", ("model.dtype=float16",), "model.dtype = 'float16' needs a GPU; on a CPU: float"),
        ("sd15", ("adapter.targets=['to_z']",), "no linear is called 'to_z'; valid: "),
        ("sd15", ("model.resolution=30",), "must be a multiple of 4, as 28 or 32"),
        ("sd15", ("model.family=sd16",), "'sd16' is no family; did you mean 'sd15'?"),
        ("sd15", ("model.attention=quick",), "'quick': not a valid choice; valid: auto, cudnn, ef"),
    ],
)
def test_a_model_that_does_not_go_with_the_settings(family, changes, says, checkpoint, tmp_path):
    assert says in refused(tmp_path, f"model.path={checkpoint(family)}", *changes)


def test_a_folder_without_one_of_its_parts(checkpoint, tmp_path):
    broken = shutil.copytree(checkpoint("sd15"), tmp_path / "broken")
    shutil.rmtree(broken / "text_encoder")
    assert "its component 'text_encoder' is missing" in refused(tmp_path, f"model.path={broken}")


def test_a_text_encoder_without_one_of_its_weights(checkpoint, tmp_path):
    broken = shutil.copytree(checkpoint("sd15"), tmp_path / "broken")
    file = broken / "text_encoder" / "model.safetensors"
    arrays = load_file(file)
    del arrays[min(arrays)]
    save_file(arrays, file, metadata={"format": "pt"})
    line = refused(tmp_path, f"model.path={broken}")
    assert "text_encoder/model.safetensors: '" in line
    assert line.endswith("' is missing")


def test_an_old_gpu_has_no_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ValueError, match="'bfloat16': Tesla T4 has none; valid: float16, float32"):
        loading.check_dtype("bfloat16", torch.device("cuda"))
    loading.check_dtype("float16", torch.device("cuda"))


def kernels():
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("attention", "enabled"),
    [
        ("flash", (True, False, False)),
        ("efficient", (False, True, False)),
        ("cudnn", (False, False, True)),
        ("math", (False, False, False)),
        ("auto", (True, True, True)),  # last: what the other tests run with
    ],
)
def test_attention_kernels_are_those_that_were_asked_for(attention, enabled):
    own = {"family": "sd3", "path": "somewhere"}
    loading.choose_kernels(ModelConfig(**own, attention=attention))
    assert kernels() == enabled
    assert torch.backends.cuda.math_sdp_enabled()


def test_tf32_is_off_unless_it_is_asked_for():
    own = {"family": "sd3", "path": "somewhere"}

    def now():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    loading.choose_kernels(ModelConfig(**own, tf32="always"))
    assert now() == ("high", True)
    for mode in ("never", "auto"):
        loading.choose_kernels(ModelConfig(**own, tf32=mode))
        assert now() == ("highest", False)
    with loading.tf32(True):  # as decoding does beside half weights
        assert now() == ("highest", True)
    assert now() == ("highest", False)

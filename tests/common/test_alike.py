"""Processes that were started with other settings, files or rewards refuse in one line."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import common.embedded
from common import backends, config as configuration
from common.errors import PeerError
from common.evaluation import model_sample
from common.prompts import Prompt
from common.workflows import alike
from tests.common.processes import together


@pytest.fixture
def folder(tmp_path):
    """A pipeline's folder with two tensors in its weights."""
    path = tmp_path / "model"
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    save(path)
    return path


def save(folder, changed=0.0):
    """The weights; changed: is added to the last numbers of the second tensor."""
    values = {"first": np.zeros((600, 600), np.float32), "second": np.ones(1000, np.float32)}
    values["second"] += changed
    save_file(values, folder / "unet/diffusion_pytorch_model.safetensors")


def model(path):
    return configuration.load("sd15-compressibility", [f"model.path={path}"]).model


def compared(*folders, **more):
    """What each process raises or returns, one for each folder."""
    config = configuration.load("emoji")

    def one(world):
        backend = backends.load("cpu")
        backend.world = world
        own = config.model_copy(update={"model": model(folders[world.rank])})
        given = {name: values[world.rank] for name, values in more.items()}
        return alike.check_files(backend, own, **given)

    return [str(result) for result in together(len(folders), one)]


def test_other_weights_are_seen_in_any_tensor(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    assert compared(folder, other) == ["None", "None"]
    save(other, changed=1e-3)
    first, second = compared(folder, other)
    assert first.startswith("process 1 differs from this one in the weights of the base model: ")
    assert second.startswith("process 0 differs from this one in the weights of the base model: ")
    assert "\n" not in first


def test_settings_beside_the_weights_count(folder):
    before = model_sample.digest(model(folder))
    assert model_sample.digest(model(folder)) == before
    (folder / "unet/config.json").write_text("{}")
    assert model_sample.digest(model(folder)) != before


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, (10).to_bytes(8, "little") + b'{"a": [1]}', b"\x02" + bytes(7) + b"{}"],
)
def test_a_damaged_file_has_a_digest_too(content, folder):
    """The library that loads it says what is wrong."""
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    assert len(model_sample.digest(model(folder))) == 64


def test_a_header_cannot_lead_out_of_the_file(folder):
    text = b'{"a": {"data_offsets": [9000000000000000000, -5]}, "b": {"data_offsets": [-9, -1]}}'
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"numbers")
    assert len(model_sample.digest(model(folder))) == 64


def test_the_embedded_model_counts_by_its_files_and_an_unknown_one_matches_all(
    tmp_path, monkeypatch
):
    embedded = configuration.load("emoji").model
    before = model_sample.digest(embedded)
    copy = Path(shutil.copytree(Path(common.embedded.__file__).parent, tmp_path / "embedded"))
    (copy / "names.json").write_text("[]")
    monkeypatch.setattr(common.embedded, "__file__", str(copy / "__init__.py"))
    assert model_sample.digest(embedded) != before
    assert model_sample.digest(model("nobody/has-this-one")) == ""


def test_prompts_and_rewards_are_compared(folder):
    prompts = [Prompt(0, "owl")], [Prompt(0, "owl")], [Prompt(0, "cat")]
    assert compared(folder, folder, prompts=prompts[:2]) == ["None", "None"]
    assert compared(folder, folder, prompts=prompts[1:])[0].startswith(
        "process 1 differs from this one in the prompts: "
    )
    rewards = [
        SimpleNamespace(rewards={"clip": SimpleNamespace(version=v)}) for v in ("1 a", "1 b")
    ]
    assert compared(folder, folder, rewards=rewards) == [
        "process 1 differs from this one in the reward clip: 1 b, here 1 a",
        "process 0 differs from this one in the reward clip: 1 a, here 1 b",
    ]


def test_settings_and_libraries_are_compared(monkeypatch):
    config = configuration.load("emoji")

    def one(world):
        backend = backends.load("cpu")
        backend.world = world
        described = backend.describe() | {"threads": str(world.rank + 1)}
        backend.describe = lambda: described
        return alike.check_settings(backend, config)

    errors = together(2, one)
    assert all(isinstance(error, PeerError) for error in errors)
    assert str(errors[0]) == "process 1 differs from this one in threads: 2, here 1"

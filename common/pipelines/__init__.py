"""Diffusers pipelines, for both backends: their folders, their architectures, their prompts."""

from common.pipelines.folder import (
    FAMILIES,
    INDEX,
    PIPELINES,
    REPOSITORY,
    check,
    check_resolution,
    diffusion_schedule,
    flux_schedule,
    index,
    load_errors_in_one_line,
)

__all__ = [
    "FAMILIES",
    "INDEX",
    "PIPELINES",
    "REPOSITORY",
    "check",
    "check_resolution",
    "diffusion_schedule",
    "flux_schedule",
    "index",
    "load_errors_in_one_line",
]

"""Diffusers pipelines, for both backends: their folders, their architectures, their prompts."""

from common.pipelines.folder import (
    FAMILIES,
    INDEX,
    PIPELINES,
    REPOSITORY,
    check,
    check_resolution,
    diffusion_schedule,
    explained,
    flux_schedule,
    index,
)

__all__ = [
    "FAMILIES",
    "INDEX",
    "PIPELINES",
    "REPOSITORY",
    "check",
    "check_resolution",
    "diffusion_schedule",
    "explained",
    "flux_schedule",
    "index",
]

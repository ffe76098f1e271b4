"""Imports that every row of a tiny run needs, done once before its processes are forked."""

from contextlib import suppress

with suppress(ImportError):
    import torch  # noqa: F401
with suppress(ImportError):
    import diffusers.pipelines.flux.pipeline_flux
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion
    import diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3  # noqa: F401

    import drift_torch.full_size  # noqa: F401
with suppress(ImportError):
    import peft  # noqa: F401

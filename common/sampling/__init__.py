"""Sampling: the denoising process, prompt noise, and images by the stochastic path or the ODE."""

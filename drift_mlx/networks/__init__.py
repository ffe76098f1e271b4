"""The networks of diffusers pipelines in MLX, under the names of their PyTorch parameters.

Images are channels last inside a network; what goes in and comes out is as in PyTorch.
"""

"""Evaluation: what a policy draws on the same prompts and noise, measured and recorded."""

"""What the commands and `import drift` share: train, evaluate, compare and sample, start to end."""

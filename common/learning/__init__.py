"""Learning: credit for the samples of an update, and the optimizer steps that it leads to."""

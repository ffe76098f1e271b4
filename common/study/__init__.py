"""Studies: measure the checkpoints of runs, and compare methods by what they reach."""

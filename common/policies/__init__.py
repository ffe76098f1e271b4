"""What policies and scorers have in common on every backend; the networks are the backends'."""

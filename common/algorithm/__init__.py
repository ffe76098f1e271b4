"""DRIFT's mathematics: pure functions over arrays, no I/O, no state, no models."""

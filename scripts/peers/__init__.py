"""Speed and memory beside other loops: what `scripts/bench_peers.py` measures, part by part."""

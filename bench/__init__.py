"""Benchmarks: `scripts/bench NAME` runs one and prints one JSON object as its last line."""

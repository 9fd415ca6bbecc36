"""Measurements, each a command: `python -m benchmarks.<name>`; their figures lie in results/."""

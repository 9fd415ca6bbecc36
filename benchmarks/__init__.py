"""Measurements. Each is a command, `python -m benchmarks.<name>`, and leaves its figures in results/."""

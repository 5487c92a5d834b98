"""Measurements. Each file is a command of its own; their results lie in results/."""

"""Benchmarks. Figures only mean something on a machine that does nothing else."""

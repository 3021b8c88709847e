"""Benchmarks of ggserve against its peers, and a soak test. Figures mean something only on an otherwise idle
machine."""

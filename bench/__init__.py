"""ggserve against its peers, and a soak test. Figures only mean something on a machine that does nothing else."""

"""The process: supervisor, connections, signals, logs. Knows nothing of models."""

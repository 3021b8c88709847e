"""The process: supervisor, connections, signals, logs. Knows no model."""

"""HTTP: the parts that all dialects share, and a folder for each dialect. Imports `model`, and no engine."""

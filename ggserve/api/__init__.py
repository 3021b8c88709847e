"""The HTTP layer: the code that all dialects share, and a folder for each dialect. Calls `model`; knows no engine."""

"""HTTP and nothing else: what all dialects share, and a folder for each. Asks `model`, knows no engine."""

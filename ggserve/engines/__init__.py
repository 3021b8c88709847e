"""Token ids to tokens: the engine contract, the choice of engine, shared parts, and a folder for each engine."""

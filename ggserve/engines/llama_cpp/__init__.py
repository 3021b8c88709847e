"""The llama.cpp engine: its server core, in this process or in a child."""

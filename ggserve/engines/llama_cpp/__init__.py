"""The llama.cpp engine: its server core in this process."""

"""Ollama's own API, for programs that know no other."""

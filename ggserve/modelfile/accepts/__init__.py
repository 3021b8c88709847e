"""The rules by which each engine accepts a model file."""

"""Endpoints named and shaped as in llama.cpp's server."""

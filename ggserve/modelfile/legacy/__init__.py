"""GGML files of before GGUF: layouts, tokens, merges, and the buffers that their loaders compute in."""

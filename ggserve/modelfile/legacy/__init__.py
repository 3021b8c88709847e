"""Legacy GGML files (before GGUF): layouts, tokens, merges, and the buffers of their loaders."""

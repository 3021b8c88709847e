"""Legacy GGML files (before GGUF): layouts, vocabularies, merges, and the buffers of their loaders."""

"""The ctransformers engine: contexts of a C library, each evaluated by one worker thread at a time."""

"""Text to token ids and back: tokenizers and chat templates. Knows no engines, no HTTP."""

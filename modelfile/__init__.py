"""Model files: reading, checking, finding and converting them. Knows no prompts, no engines, no HTTP."""

"""Model files: what they hold, where they come from, which engine runs them, what they take in memory, and converting
them. Knows no prompts and no HTTP, and of the engines only which files they accept."""

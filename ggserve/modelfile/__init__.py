"""Model files: formats, facts, which engine accepts them, conversion. Knows no prompts, engines or HTTP."""

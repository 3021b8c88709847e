"""Model files: formats, facts, conversion, and which engine accepts a file. Imports nothing of prompts, engines or
HTTP."""

"""OpenAI's request bodies, validated. Unknown fields are ignored; known but unsupported ones are errors."""

"""OpenAI's request bodies. Unknown fields are ignored; known but unsupported ones are errors."""

"""OpenAI's request bodies, validated. Unknown fields are ignored; known ones that do nothing yet are errors."""

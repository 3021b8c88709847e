"""Structured output: grammars, and how an answer is held to one."""

"""Structured output: grammars, and the matcher that constrains an answer to one."""

"""Chats to text and answers back to messages: templates, tool calls, infill. Knows no engine and no HTTP."""

"""Chats to text, and answers back to messages: templates, tool calls, fill-in-the-middle. Knows no engine and no
HTTP."""

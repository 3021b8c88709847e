"""Token ids to tokens: the contract, what engines share, and a folder for each. Knows no OpenAI and no model file's
inside; an engine may render chats by itself (NativeChat)."""

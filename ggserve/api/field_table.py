"""What each endpoint does with the fields that clients send: the one table that all dialects refuse fields by.

`USED` says what the fields of the schemas do. `REFUSED` has fields that would change an answer and are not supported,
with the values that ask for nothing, beside null; any other value is a 400 that names the field. `IGNORED` has fields
that change no answer. Fields that are in no list are ignored too. `python docs/make_fields.py` writes the table down.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Harmless = Mapping[str, Sequence[Any]]

_ANY_GENERATION: dict[str, Sequence[Any]] = {
    "adaptive_target": (-1,),
    "add_generation_prompt": (True,),
    "audio": (),
    "chat_template": ("",),
    "continue_final_message": (False,),
    "documents": ([],),
    "enable_thinking": (),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "logit_bias_exp": ([],),
    "logprob_token_ids": ([],),
    "lora": ([],),
    "modalities": (["text"],),
    "n_cmpl": (1,),
    "no_stop_trim": (False,),
    "parse_tool_calls": (True,),
    "priority": (0,),
    "prompt_embeds": (),
    "reasoning_format": ("auto", "deepseek"),
    "reasoning": ({},),
    "repetition_detection": (),
    "response_fields": ([],),
    "structural_tag": (),
    "thinking_budget_tokens": (-1,),
    "thinking_token_budget": (),
    "token_healing": (False,),
    "top_a": (0,),
    "tfs": (1,),
    "tfs_z": (1,),
    "t_max_predict_ms": (0, -1),
    "use_beam_search": (False,),
    "web_search_options": (),
}
_CHAT_ONLY: dict[str, Sequence[Any]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
_COMPLETION_ONLY: dict[str, Sequence[Any]] = {"best_of": (1,), "echo": (False,), "suffix": ("",)}
_NATIVE_ONLY = ("n_cmpl", "response_fields", "t_max_predict_ms")
_LLAMA_SERVER = {name: ok for name, ok in _ANY_GENERATION.items() if name not in _NATIVE_ONLY} | _CHAT_ONLY
_OLLAMA_OPTIONS: dict[str, Sequence[Any]] = {
    "options.tfs_z": (1,),
    "options.penalize_newline": (True, False),  # it is a token as others are
    "options.embedding_only": (False,),
    "options.logits_all": (False,),
    "options.vocab_only": (False,),
}

REFUSED: dict[str, Harmless] = {
    "/v1/chat/completions": _ANY_GENERATION | _COMPLETION_ONLY | {"store": (False,)},
    "/v1/completions": _ANY_GENERATION | _CHAT_ONLY,
    "/completion": _LLAMA_SERVER | {"n": (1,)},
    "/infill": _LLAMA_SERVER | {"n": (1,), "n_cmpl": (1,), "n_probs": (0,), "response_fields": ([],)},
    "/v1/responses": {
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "moderation": (),
        "presence_penalty": (0,),
        "prompt": (),
    },
    "/v1/messages": {"container": (), "mcp_servers": ([],)},
    "/api/chat": _OLLAMA_OPTIONS,
    "/api/generate": _OLLAMA_OPTIONS,
}

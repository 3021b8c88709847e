"""Records the greedy answers of current llama.cpp to the default model's original file, before its conversion.

pip install xllamacpp
python tests/engine/record_reference.py SmolLM2-135M-Instruct.Q4_1.gguf tests/engine/llama_cpp_greedy.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import xllamacpp

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):",
    "In 1969, the first",
    "The three primary colours are",
    "Once upon a time",
    "Ein Hund läuft über die",
    "1, 2, 3, 4, 5, 6,",
    "Monday, Tuesday, Wednesday,",
    "A B C D E F G",
    "2 + 2 = 4\n3 + 3 = 6\n4 + 4 =",
]
CHATS = ["What is the capital of France?", "Write one sentence about the sea.", "Count from 1 to 10."]
GREEDY = {"n_predict": 30, "temperature": 0, "cache_prompt": False}


def main(model: str, target: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 2048
    params.n_parallel = 1
    server = xllamacpp.Server(params)
    answers: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        choice = server.handle_completions({"prompt": prompt, "logprobs": 1, **GREEDY})["choices"][0]
        answers.append({"prompt": prompt, **_answer(choice, choice["text"])})
    for text in CHATS:
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "logprobs": True, "top_logprobs": 1, **GREEDY}
        choice = server.handle_chat_completions(body)["choices"][0]
        answers.append({"messages": messages, **_answer(choice, choice["message"]["content"])})
    Path(target).write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def _answer(choice: dict[str, Any], text: str) -> dict[str, Any]:
    tokens = [token["id"] for token in choice["logprobs"]["content"]]
    return {"text": text, "tokens": tokens, "finish_reason": choice["finish_reason"]}


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The server that people write in a few lines: one ctransformers model, `llm(prompt)` behind FastAPI.

All settings are the library's defaults, except for a context that fits the benchmark's prompts. It answers one request
at a time, whole, without the model's chat template and with the library's guess of the tokens.
"""

import sys
from typing import Any

import uvicorn
from ctransformers import AutoModelForCausalLM  # type: ignore[attr-defined]
from fastapi import FastAPI

app = FastAPI()
llm: Any = None


@app.post("/v1/completions")
async def completions(body: dict[str, Any]) -> dict[str, Any]:
    """Return the continuation of `body["prompt"]`."""
    return generate(body["prompt"], body["max_tokens"])


@app.post("/v1/chat/completions")
async def chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return the next message of a chat."""
    return generate("\n".join(message["content"] for message in body["messages"]), body["max_tokens"])


def generate(prompt: str, max_tokens: int) -> dict[str, Any]:
    text = llm(prompt, max_new_tokens=max_tokens, top_k=1)
    usage = {"prompt_tokens": len(llm.tokenize(prompt)), "completion_tokens": len(llm.tokenize(text))}
    return {"choices": [{"text": text}], "usage": usage}


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    path, port, context_length = sys.argv[1:]
    llm = AutoModelForCausalLM.from_pretrained(path, model_type="llama", context_length=int(context_length))
    uvicorn.run(app, port=int(port), log_level="warning")

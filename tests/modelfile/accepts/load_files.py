"""Loads and runs GGUF files in ctransformers, in a process that may die: paths in, a line each out."""

import ctypes
import sys

import numpy as np
from ctransformers.llm import LLM, Config


def main() -> None:
    for path in sys.stdin.read().split("\0"):
        print(path, end=" ", flush=True)
        try:
            llm = LLM(path, config=Config(context_length=48, threads=1), lib="avx2")
        except RuntimeError:
            print("refused", flush=True)
            continue
        llm.eval([5, 6, 7, 8, 9])
        llm.eval([3])
        for token in range(llm.vocab_size):
            llm.ctransformers_llm_detokenize(token)
        if llm.vocab_size == 280:  # the SentencePiece vocabulary of tiny_gguf
            text = "ab a é \x01 你".encode()
            # Not LLM.tokenize: its buffer has an entry per character, and this text has more tokens.
            llm.ctransformers_llm_tokenize(text, True, (ctypes.c_int * (len(text) + 2))())
        print("finite" if np.isfinite(list(llm.logits)).all() else "ran", flush=True)
        del llm


main()

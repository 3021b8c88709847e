"""llama-server's own core on its own HTTP listener, through xllamacpp. bench.servers runs it in a process of its own.

No Python runs while it serves.
"""

import argparse
import threading

import xllamacpp


def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser("python -m bench.llama_server")
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True, help="number of slots; -1: llama-server's default")
    parser.add_argument("--context", type=int, required=True, help="tokens per slot; 0: the model's own length")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.port = options.port
    params.n_parallel = options.slots
    # Divided evenly; with -1 slots llama-server makes four that share the context as needed.
    params.n_ctx = options.slots * options.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(params)  # keep the reference: without it the listener ends
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

"""Runs llama.cpp's own server on loopback, from the package xllamacpp: ``python llama_server.py MODEL.gguf``.

Says its address on standard output when it answers, and ends when its standard input does: no test leaves one behind.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def main() -> None:
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # any that is free
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 2048, 2, 0
    # Threads wait for each other by spinning, which on a busy machine takes ten times as long as doing without.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""Driver of rerankers: RankGPT over the whole list, and pointwise scores by a causal model (mxbai); see exchange.py.

RankGPT asks a server, so the model is served from the same environment, by `transformers serve` on this machine: that
of transformers 5, for 4 streams its answers whether asked to or not. mxbai in turn needs transformers 4, whose
tokenizers have `prepare_for_model`.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from exchange import Order, Rank, Tally, readable, serve


def served(order: Order) -> str:
    """Serve the model until this process ends; return the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", order.model]
    command += ["--device", "cpu", "--dtype", order.dtype, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    atexit.register(server.kill)
    for _ in range(240):
        if server.poll() is not None:
            raise RuntimeError(f"transformers serve ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return f"http://127.0.0.1:{port}/v1"
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("transformers serve did not answer within two minutes")


def rankgpt(order: Order, tally: Tally) -> Rank:
    os.environ.update(OPENAI_API_BASE=served(order), LITELLM_LOCAL_MODEL_COST_MAP="True")
    from rerankers import Reranker
    from transformers import AutoTokenizer

    ranker = Reranker("openai/" + order.model, model_type="rankgpt", api_key="none", verbose=0)
    ask, tally.counted_by = ranker._query_llm, "rerank.parsing"
    tokenizer = AutoTokenizer.from_pretrained(order.model)

    def rank(query, docs):
        def watched(messages):
            reply = ask(messages)
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            tally.prompt_tokens += len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            tally.reply_tokens += len(tokenizer(reply, add_special_tokens=False)["input_ids"])
            tally.raw.append((reply, len(docs)))
            return reply

        ranker._query_llm = watched
        texts, ids = [doc["text"] for doc in docs], [doc["id"] for doc in docs]
        ranked = ranker.rank(query["text"], texts, doc_ids=ids, rank_end=len(docs))  # by default it would show none
        return [result.document.doc_id for result in ranked.results]

    return rank


def pointwise(order: Order, tally: Tally) -> Rank:
    from rerankers import Reranker

    ranker = Reranker(readable(order.model), model_type="mxbaiv2", device="cpu", dtype=order.dtype, verbose=0)
    if ranker is None:
        raise RuntimeError("rerankers made no ranker of this type and says only that dependencies are missing")

    def rank(query, docs):
        texts, ids = [doc["text"] for doc in docs], [doc["id"] for doc in docs]
        return [result.document.doc_id for result in ranker.rank(query["text"], texts, doc_ids=ids).results]

    return rank


if __name__ == "__main__":
    serve("rerankers", {"rankgpt": rankgpt, "pointwise": pointwise})

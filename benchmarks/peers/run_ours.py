"""Driver of listrank itself: the methods that the peers have too, and those that they lack; see exchange.py."""

from __future__ import annotations

from exchange import Order, Rank, Tally, serve

#: Methods by name; those of one reply a window are also asked as the peers ask, without a grammar.
METHODS = {
    "sliding": "sliding,size={window},stride={stride}",
    "sliding-free": "sliding,size={window},stride={stride},constrain=false",
    "fullrank": "fullrank",
    "fullrank-free": "fullrank,constrain=false",
    "first": "first,size={window},stride={stride}",
    "setwise": "setwise,top_k={top}",
    "pairwise": "pairwise,top_k={top}",
    "pointwise": "pointwise",
    "icr": "icr",
}


class Counted:
    """A backend that counts what it is asked."""

    def __init__(self, backend, tally: Tally) -> None:
        self._backend, self._tally = backend, tally

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def generate(self, requests):
        self._tally.calls += len(requests)
        replies = self._backend.generate(requests)
        self._tally.prompt_tokens += sum(reply.tokens_in for reply in replies)
        self._tally.reply_tokens += sum(reply.tokens_out for reply in replies)
        return replies


def opened(order: Order, tally: Tally) -> Rank:
    from rerank.reranker import Reranker

    backend, method = order.system.split(" ")
    reranker = Reranker.from_pretrained(
        f"{backend}:{order.model}", method=METHODS[method].format(**vars(order)), dtype=order.dtype, device="cpu"
    )
    reranker.judge = reranker.judge.with_backend(Counted(reranker.judge.backend, tally))
    written = method.partition("-")[0] in ("sliding", "fullrank")
    tally.counted_by = "its own windows" if written else tally.counted_by

    def rank(query, docs):
        hits = reranker.rank(query["text"], docs)
        if written:
            tally.replies += sum(hits.windows.values())
            tally.malformed += sum(hits.windows.values()) - hits.windows["ok"]
        return [hit.document.id for hit in hits]

    return rank


if __name__ == "__main__":
    serve("listrank", {f"{backend} {method}": opened for backend in ("hf", "vllm") for method in METHODS})

"""Driver of rank_llm: sliding windows by writing and by the first identifier's logits, in process; see exchange.py."""

from __future__ import annotations

import asyncio
import functools

from exchange import Order, Rank, Tally, serve


def opened(order: Order, **options):
    """The class for open models, its vLLM in the number type that is asked for: it has no option for that."""
    import vllm

    vllm.AsyncEngineArgs = functools.partial(vllm.AsyncEngineArgs, dtype=order.dtype)
    from rank_llm.rerank.listwise import RankListwiseOSLLM

    options |= {"context_size": 8192, "window_size": order.window, "stride": order.stride, "device": "cpu"}
    return RankListwiseOSLLM(model=order.model, name="model", variable_passages=True, **options)


def request(query, docs):
    from rank_llm.data import Candidate, Query, Request

    candidates = [
        Candidate(docid=doc["id"], score=1 / (at + 1), doc={"contents": doc["text"]}) for at, doc in enumerate(docs)
    ]
    return Request(query=Query(text=query["text"], qid=query["id"]), candidates=candidates)


def asked(ranker, tally: Tally) -> Rank:
    """Its asynchronous method, in one event loop: with the other, which makes a loop a call, the second call fails.

    It goes on without the windows that fail and says nothing, so they are counted.
    """
    from rank_llm.analysis.response_analysis import ResponseAnalyzer

    loop = asyncio.new_event_loop()
    tally.counted_by = "its own ResponseAnalyzer"

    def rank(query, docs):
        asking = ranker.rerank_async(request(query, docs), rank_end=len(docs), populate_invocations_history=True)
        result = loop.run_until_complete(asking)
        windows = ranker._count_windows(len(docs), 0, len(docs), ranker._window_size, ranker._stride)
        if len(result.invocations_history) != windows:
            raise RuntimeError(f"{windows} windows, and {len(result.invocations_history)} replies")
        counts = ResponseAnalyzer.from_inline_results([result], use_alpha=ranker._use_alpha).count_errors()
        tally.replies += sum(counts.values())
        tally.malformed += sum(counts.values()) - counts["ok"]
        return [candidate.docid for candidate in result.candidates]

    return rank


def sliding(order: Order, tally: Tally) -> Rank:
    return asked(opened(order), tally)


def first(order: Order, tally: Tally) -> Rank:
    return asked(opened(order, use_logits=True, use_alpha=True), tally)


if __name__ == "__main__":
    serve("rank-llm", {"sliding": sliding, "first": first})

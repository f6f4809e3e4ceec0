"""Driver of llm-rankers: setwise and pairwise by heap sort, sliding windows, pointwise; see exchange.py.

Its sliding windows need transformers 4: with 5, `apply_chat_template` returns a mapping where it expects a tensor.
"""

from __future__ import annotations

from typing import Any

from exchange import Order, Rank, Tally, readable, serve


def results(docs):
    from llmrankers.rankers import SearchResult

    return [SearchResult(docid=doc["id"], score=-at, text=doc["text"]) for at, doc in enumerate(docs)]


def watched(ranker, tally: Tally, count) -> Rank:
    """The ranker's `rerank`, each answer of its `compare` passed to ``count``."""
    asked = ranker.compare

    def compare(query, docs):
        output = asked(query, docs)
        count(output, docs)
        return output

    ranker.compare = compare
    return counting(ranker, tally)


def counting(ranker, tally: Tally) -> Rank:
    """The ranker's `rerank`, whose own counts of tokens, which begin at zero for each list, are added up.

    What it counts as completions of a causal model includes the prompts.
    """

    def rank(query, docs):
        hits = ranker.rerank(query["text"], results(docs))
        tally.prompt_tokens += ranker.total_prompt_tokens
        tally.reply_tokens += ranker.total_completion_tokens - ranker.total_prompt_tokens
        return [hit.docid for hit in hits]

    return rank


def common(order: Order) -> dict[str, Any]:
    if order.dtype != "float32":
        raise ValueError("llm-rankers loads models in float32 on a processor, whatever is asked for")
    return {"model_name_or_path": readable(order.model), "tokenizer_name_or_path": None, "device": "cpu"}


def setwise(order: Order, tally: Tally) -> Rank:
    from llmrankers.setwise import SetwiseLlmRanker

    ranker = SetwiseLlmRanker(**common(order), num_child=2, k=order.top, scoring="generation", method="heapsort")
    tally.counted_by = "its own test: one letter that it knows"

    def count(output, docs) -> None:
        tally.replies += 1
        tally.malformed += not (len(output) == 1 and output in ranker.CHARACTERS[: len(docs)])

    return watched(ranker, tally, count)


def pairwise(order: Order, tally: Tally) -> Rank:
    from llmrankers.pairwise import PairwiseLlmRanker

    ranker = PairwiseLlmRanker(**common(order), k=order.top, method="heapsort")
    tally.counted_by = "its own test: Passage A or Passage B"

    def count(output, docs) -> None:
        tally.replies += len(output)
        tally.malformed += sum(reply not in ("Passage A", "Passage B") for reply in output)

    return watched(ranker, tally, count)


def sliding(order: Order, tally: Tally) -> Rank:
    from llmrankers.listwise import ListwiseLlmRanker

    ranker = ListwiseLlmRanker(**common(order), window_size=order.window, step_size=order.stride)
    tally.counted_by = "rerank.parsing"
    return watched(ranker, tally, lambda output, docs: tally.raw.append((output, len(docs))))


def pointwise(order: Order, tally: Tally) -> Rank:
    from llmrankers.pointwise import PointwiseLlmRanker

    ranker = PointwiseLlmRanker(**common(order), method="yes_no")
    return lambda query, docs: [hit.docid for hit in ranker.rerank(query["text"], results(docs))]


if __name__ == "__main__":
    serve("llm-rankers", {"setwise": setwise, "pairwise": pairwise, "sliding": sliding, "pointwise": pointwise})

"""One call of a reranker: its options, checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, TypedDict, get_args

from rerank.errors import UnknownNameError, UsageError
from rerank.reranker.hits import check_top_k
from rerank.retrieval.base.given_documents import Candidate, DocumentLike, given_candidates, given_query, given_ranking
from rerank.types import Query, Ranking

#: What happens if a window fails: the ranking is returned with the window in its given order, or an error is raised.
OnFailure = Literal["keep", "raise"]


class RankOptions(TypedDict, total=False):
    """Options of one ranking.

    Attributes:
        scores: First-stage scores of the documents, from which the first-stage order is then taken. If omitted, the
            documents may have a key ``score``; none are invented.
        top_k: Number of hits to return, from 0; None for all. Methods that can stop early do so.
        threshold: Keep only hits whose calibrated relevance reaches it.
        deadline: Seconds from now after which the windows that are not judged yet keep their given order; None for no
            limit. A model in this process ends its current batch.
        on_failure: Replaces that of the reranker.
        instruction: What counts as relevant, for prompts with a place for it; `Hits.notes` says if there is none.
    """

    scores: Sequence[float] | None
    top_k: int | None
    threshold: float | None
    deadline: float | None
    on_failure: OnFailure | None
    instruction: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCall:
    """A checked call of `Reranker.rank`.

    Attributes:
        ranking: The first-stage list; the ids of its documents are their positions.
        candidates: The documents as they were given.
        top_k: Number of hits to return.
        threshold: Lowest relevance of a hit.
        deadline: `time.monotonic` value of the deadline.
        on_failure: What happens if a window fails.
    """

    ranking: Ranking
    candidates: Sequence[Candidate]
    top_k: int | None
    threshold: float | None
    deadline: float | None
    on_failure: OnFailure

    @classmethod
    def check(cls, query: str | Query, documents: Sequence[DocumentLike], options: RankOptions) -> Self:
        """Check the arguments of a call; its deadline begins now.

        Raises:
            UnknownNameError: No option has this name.
            UsageError: The query is not a text, the documents are not a list, or an option is out of range.
            DataError: A document has no text, or its id, title or score has the wrong type.
        """
        for name in options:
            if name not in RankOptions.__annotations__:
                raise UnknownNameError("option of rank", name, list(RankOptions.__annotations__))
        top_k, threshold, deadline = options.get("top_k"), options.get("threshold"), options.get("deadline")
        check_top_k(top_k)
        for name, value in (("deadline", deadline), ("threshold", threshold)):
            if value is not None and not _is_number(value):
                raise UsageError(f"{name} is {value!r}", expected="a number, or None")
        if not isinstance(options.get("instruction") or "", str):
            raise UsageError(f"instruction is {options['instruction']!r}", expected="a text, or None")
        if deadline is not None and not deadline > 0:
            raise UsageError(f"deadline is {deadline!r}", expected="more than 0 seconds, or None for no limit")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold!r}", expected="a probability from 0 to 1")
        candidates = given_candidates(documents, options.get("scores"))
        query = given_query(query)
        if instruction := options.get("instruction"):
            query = replace(query, instruction=instruction)
        return cls(
            # To return nothing, nothing is asked.
            ranking=given_ranking(query, [] if top_k == 0 else candidates),
            candidates=candidates,
            top_k=top_k,
            threshold=threshold,
            deadline=None if deadline is None else time.monotonic() + deadline,
            on_failure=check_on_failure(options.get("on_failure") or "keep"),
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_on_failure(value: OnFailure) -> OnFailure:
    """Return what happens on failure.

    Raises:
        UnknownNameError: It is neither ``keep`` nor ``raise``.
    """
    if value not in get_args(OnFailure):
        raise UnknownNameError("value of on_failure", value, get_args(OnFailure))
    return value

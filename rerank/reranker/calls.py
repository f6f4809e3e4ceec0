"""The options and the checked arguments of one call of a reranker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, TypedDict, get_args

from rerank.errors import UnknownNameError, UsageError
from rerank.reranker.hits import check_reranker_top_k
from rerank.retrieval.base.given_documents import (
    Candidate,
    DocumentLike,
    given_first_stage_candidates,
    given_first_stage_query,
    given_first_stage_ranking,
)
from rerank.types import Query, Ranking

#: What happens if a window fails: ``keep`` leaves the window in its given order, ``raise`` raises an error.
OnFailure = Literal["keep", "raise"]


class RankOptions(TypedDict, total=False):
    """Options for one ranking.

    Attributes:
        scores: First-stage scores of the documents, which then determine the first-stage order. If omitted, the
            documents' key ``score`` is used; without either, there are no first-stage scores.
        top_k: Number of hits to return, at least 0; None for all. Methods that can stop early do so.
        threshold: Minimum calibrated relevance of a hit; hits below it are omitted. None for no threshold.
        deadline: Seconds from now. Windows that are not judged by then keep their given order; a model in this process
            still finishes its current batch. None for no limit.
        on_failure: ``keep`` or ``raise``, as in `Reranker`; None to use the ``on_failure`` of the reranker.
        instruction: Description of what counts as relevant, for prompts that have a place for it. If the prompt has no
            such place, the instruction has no effect, and `Hits.notes` contains a note.
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
        candidates: The documents in the order in which they were given.
        top_k: Number of hits to return; None for all.
        threshold: Minimum calibrated relevance of a hit; None for no threshold.
        deadline: `time.monotonic` value of the deadline; None for no deadline.
        on_failure: ``keep`` to leave a failed window in its given order, or ``raise`` to raise an error.
    """

    ranking: Ranking
    candidates: Sequence[Candidate]
    top_k: int | None
    threshold: float | None
    deadline: float | None
    on_failure: OnFailure

    @classmethod
    def check(cls, query: str | Query, documents: Sequence[DocumentLike], options: RankOptions) -> Self:
        """Return the checked arguments of a call; the time until its deadline is counted from now."""
        for name in options:
            if name not in RankOptions.__annotations__:
                raise UnknownNameError("option of rank", name, list(RankOptions.__annotations__))
        top_k, threshold, deadline = options.get("top_k"), options.get("threshold"), options.get("deadline")
        check_reranker_top_k(top_k)
        for name, value in (("deadline", deadline), ("threshold", threshold)):
            if value is not None and not _is_numeric_reranker_option(value):
                raise UsageError(f"{name} is {value!r}", expected="a number, or None")
        if not isinstance(options.get("instruction") or "", str):
            raise UsageError(f"instruction is {options['instruction']!r}", expected="a text, or None")
        if deadline is not None and not deadline > 0:
            raise UsageError(f"deadline is {deadline!r}", expected="more than 0 seconds, or None for no limit")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold!r}", expected="a probability from 0 to 1")
        candidates = given_first_stage_candidates(documents, options.get("scores"))
        query = given_first_stage_query(query)
        if instruction := options.get("instruction"):
            query = replace(query, instruction=instruction)
        return cls(
            # With top_k=0, the list to rank is empty, so that no model is called.
            ranking=given_first_stage_ranking(query, [] if top_k == 0 else candidates),
            candidates=candidates,
            top_k=top_k,
            threshold=threshold,
            deadline=None if deadline is None else time.monotonic() + deadline,
            on_failure=check_reranker_on_failure(options.get("on_failure") or "keep"),
        )


def _is_numeric_reranker_option(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_reranker_on_failure(value: OnFailure) -> OnFailure:
    """Return the value of ``on_failure`` after checking it."""
    if value not in get_args(OnFailure):
        raise UnknownNameError("value of on_failure", value, get_args(OnFailure))
    return value

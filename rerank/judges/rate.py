"""The rating judge: the model writes a score for each document of a group, and the mean score orders the window.

Source: GroupRank, Sun et al. 2025, arXiv 2511.11653, and Reranker/rerank_groupwise.py in github.com/AQ-MedAI/Diver.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.errors import UsageError
from rerank.judges.base import ListwiseJudge, ScoreKind, Verdict, failed_judge_verdict
from rerank.parsing import parse_identifier_scores, parse_permutation
from rerank.tasks import GenerationTask, Reply, Request, Sampling
from rerank.types import Window

#: Number of reply tokens per document: its identifier in brackets and quotation marks, a colon, a score and a comma.
_TOKENS_PER_SCORE = 12
#: Number of reply tokens for tags and for the marks around a JSON block.
_SPARE_TOKENS = 32
#: Largest score in the prompt.
_BEST = 10.0


@dataclass(frozen=True, kw_only=True)
class Rate(ListwiseJudge):
    """A judge that divides a window into groups and lets the model write a JSON object of scores for each group.

    The window is shuffled before it is divided, so that documents do not compete only with their neighbours. The score
    of a document is its mean over the repeats; documents without a score keep their positions. The reply may contain
    an explanation before the scores, for which ``thinking_tokens`` tokens are added to its maximum length.

    Attributes:
        group: Maximum number of documents per request.
        repeats: Number of times that the window is shuffled, divided and scored.
    """

    needs = (GenerationTask,)
    prompt = "group_rank"
    score_kind = ScoreKind("mean rating", "within")
    sorts_by_score = True
    _DEFAULTS: ClassVar[tuple[int, int]] = (20, 2)

    group: int = _DEFAULTS[0]
    repeats: int = _DEFAULTS[1]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if min(self.group, self.repeats) < 1:
            raise UsageError(f"group is {self.group} and repeats is {self.repeats}", expected="at least 1 each")

    @classmethod
    def calls(cls, n: int) -> int:
        """Return the number of requests for a window of ``n`` documents with the default options."""
        group, repeats = cls._DEFAULTS
        return repeats * -(-n // group)

    def make_requests(self, window: Window) -> list[Request]:
        """Return one request per group and repeat, with passages truncated so that prompt and reply fit."""
        return [self._make_group_request(window, group) for group in self._groups(window)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window by mean score.

        If a request fails, its documents are ordered by their other scores, and the window counts as a failure. A
        window without any score has the status ``empty``.
        """
        ratings: list[list[float]] = [[] for _ in window.docs]
        for group, reply in zip(self._groups(window), replies, strict=True):
            for position, score in _group_ratings(reply.text, len(group)).items():
                ratings[group[position]].append(score)
        means = [sum(given) / len(given) if given else None for given in ratings]
        verdict = self.rank_scored_documents(means, window)
        failure = failed_judge_verdict(replies, len(window))
        return replace(failure, order=verdict.order, scores=verdict.scores) if failure else verdict

    def _groups(self, window: Window) -> list[list[int]]:
        """Return the positions of each request's documents, which depend only on the query, the seed and the sizes."""
        groups = []
        for repeat in range(self.repeats):
            positions = list(range(len(window)))
            random.Random(f"{self.limits.seed} {repeat} {window.query.id}").shuffle(positions)
            groups += [positions[start : start + self.group] for start in range(0, len(window), self.group)]
        return groups

    def _make_group_request(self, window: Window, positions: Sequence[int]) -> Request:
        docs = tuple(window.docs[position] for position in positions)
        part = Window(window.query, docs, tuple(window.scores[position] for position in positions if window.scores))
        reply_tokens = _TOKENS_PER_SCORE * len(docs) + _SPARE_TOKENS + self.limits.thinking_tokens
        fitted = self.budget.fit(self.template, part, reply_tokens=reply_tokens)
        sampling = Sampling(max_tokens=reply_tokens, temperature=self.limits.temperature, seed=self.limits.seed)
        return Request(prompt=fitted.prompt, sampling=sampling, window=part, dropped=fitted.dropped)


def _group_ratings(text: str, count: int) -> dict[int, float]:
    """Return a mapping from positions to scores; a reply that is a ranking is converted to evenly spaced scores.

    The mapping is empty if the reply contains neither scores nor a ranking of at least two documents.
    """
    if ratings := parse_identifier_scores(text, count):
        return ratings
    ranked = parse_permutation(text, count).order
    if len(ranked) < min(2, count):  # a single identifier may be the beginning of truncated scores
        return {}
    return {position: _BEST * (1 - rank / count) for rank, position in enumerate(ranked)}

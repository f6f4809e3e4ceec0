"""Fusion of the rankings of several teachers, with the same formulas as hybrid first stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rerank.errors import UnknownNameError, UsageError
from rerank.finetune.labels.teachers.base import TeacherRanking
from rerank.retrieval.hybrid import (
    FusionValues,
    min_max_fusion,
    parse_weights,
    reciprocal_rank_fusion,
    weighted_fusion_sum,
    z_score_fusion,
)
from rerank.types import Document, Ranking

FusionMethod = Literal["rrf", "z-score", "min-max"]
FUSION_METHODS: tuple[FusionMethod, ...] = get_args(FusionMethod)
_BY_SCORE: Mapping[str, Callable[[Ranking], FusionValues]] = {"z-score": z_score_fusion, "min-max": min_max_fusion}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFusion:
    """A method that fuses the rankings of several teachers into one label, with a weight per teacher.

    Attributes:
        how: ``rrf`` sums 1 / (60 + rank among the candidates) over teachers (Cormack et al., SIGIR 2009); ``z-score``
            and ``min-max`` sum the scores of the teachers, normalised over the candidates.
        weights: One number per teacher, separated by ``+``, such as ``0.3+0.7``; all weights are 1 if empty.
    """

    how: FusionMethod = "rrf"
    weights: str = ""

    @classmethod
    def make(cls, how: str, weights: str = "") -> LabelFusion:
        """Create a fusion from the values of command-line options."""
        if how not in FUSION_METHODS:
            raise UnknownNameError("fusion method", how, FUSION_METHODS)
        return cls(how=how, weights=weights)

    def check(self, teachers: int) -> None:
        """Check that there is one weight per teacher."""
        try:
            parse_weights(self.weights, teachers)
        except UsageError as error:
            raise UsageError(
                f"--weights is {self.weights!r}, but there are {teachers} teachers",
                expected=f"{teachers} nonnegative numbers, not all 0, such as {'+'.join(['0.5'] * teachers)}",
            ) from error

    def join(self, candidates: Ranking, rankings: Mapping[str, TeacherRanking]) -> TeacherRanking:
        """Fuse the rankings of several teachers into one ranking by fused score; ties keep the first-stage order.

        If a teacher does not rank a candidate, the value of the candidate is 0 (``rrf``, ``min-max``) or the lowest
        value of this teacher (``z-score``). Candidates that no teacher ranks come last. If a teacher failed, the fused
        ranking counts as failed too.

        Args:
            candidates: The first-stage ranking.
            rankings: Mapping from each teacher to its ranking, in the order of the weights.
        """
        weights = parse_weights(self.weights, len(rankings))
        failed = "; ".join(f"{name}: {ranking.failed}" for name, ranking in rankings.items() if ranking.failed)
        if failed:
            return TeacherRanking(order=next(iter(rankings.values())).order, failed=failed)
        sums = weighted_fusion_sum(
            [self._values(candidates, name, ranking) for name, ranking in rankings.items()], weights
        )
        unranked = frozenset.intersection(*(ranking.unranked for ranking in rankings.values()))
        ranked = [doc_id for doc_id in candidates.doc_ids if doc_id not in unranked]
        ordered = sorted(ranked, key=lambda doc_id: -sums[doc_id])
        last = [doc_id for doc_id in candidates.doc_ids if doc_id in unranked]
        scores = {doc_id: sums[doc_id] for doc_id in ranked}
        return TeacherRanking(order=(*ordered, *last), scores=scores, unranked=unranked)

    def _values(self, candidates: Ranking, name: str, ranking: TeacherRanking) -> FusionValues:
        docs = [Document(id=doc_id) for doc_id in ranking.order if doc_id not in ranking.unranked]
        if self.how == "rrf":
            return reciprocal_rank_fusion(Ranking.from_order(candidates.query, docs))
        if not ranking.scores and docs:
            raise missing_teacher_scores_error(self.how, name)
        scored = Ranking(candidates.query, tuple(docs), tuple(ranking.scores[doc.id] for doc in docs))
        return _BY_SCORE[self.how](scored)


def missing_teacher_scores_error(how: str, name: str) -> UsageError:
    """Return the error to raise if a fusion method needs scores and a teacher returns none."""
    return UsageError(
        f"--fuse {how} cannot be used with the teacher {name!r}, which returns a ranking without scores",
        expected="teachers with scores, or --fuse rrf, which needs only ranks",
    )


def check_teacher_names(names: Sequence[str]) -> None:
    """Check that each teacher is named only once."""
    if repeated := [name for index, name in enumerate(names) if name in names[:index]]:
        raise UsageError(
            f"--teacher {repeated[0]} is given twice",
            expected="each teacher once",
            remedy="To give it more weight, use --weights",
        )

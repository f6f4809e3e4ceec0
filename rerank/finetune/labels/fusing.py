"""Several teachers' opinions of the same candidates -> one. The formulas are those of hybrid first stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rerank.errors import UnknownNameError, UsageError
from rerank.finetune.labels.teachers.base import Opinion
from rerank.retrieval.hybrid import parse_weights
from rerank.retrieval.hybrid.fusion import Votes, min_max, reciprocal_ranks, weighted_sum, z_score
from rerank.types import Document, Ranking

How = Literal["rrf", "z-score", "min-max"]
HOWS: tuple[How, ...] = get_args(How)
_BY_SCORE: Mapping[str, Callable[[Ranking], Votes]] = {"z-score": z_score, "min-max": min_max}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How opinions are joined.

    Attributes:
        how: ``rrf``: the sum of 1 / (60 + rank among the candidates) (Cormack et al., SIGIR 2009); ``z-score`` and
            ``min-max``: the sum of scores that are normalised over the candidates.
        weights: One number a teacher, joined by ``+``, as in ``0.3+0.7``; all 1 if empty.

    Raises:
        UsageError: Weights that are no numbers from 0 up.
    """

    how: How = "rrf"
    weights: str = ""

    @classmethod
    def make(cls, how: str, weights: str = "") -> Fusion:
        """Check a choice as it comes from a flag.

        Raises:
            UnknownNameError: There is no such way.
        """
        if how not in HOWS:
            raise UnknownNameError("way of fusing", how, HOWS)
        return cls(how=how, weights=weights)

    def check(self, teachers: int) -> None:
        """See that there is a weight for each teacher.

        Raises:
            UsageError: There is not.
        """
        try:
            parse_weights(self.weights, teachers)
        except UsageError as error:
            raise UsageError(
                f"--weights {self.weights} for {teachers} teachers",
                expected=f"{teachers} numbers from 0 up, not all 0, joined by +: {'+'.join(['0.5'] * teachers)}",
            ) from error

    def join(self, candidates: Ranking, opinions: Mapping[str, Opinion]) -> Opinion:
        """One opinion: falling fused scores, ties in first-stage order.

        A candidate that a teacher is silent about gets from it 0 (``rrf``, ``min-max``) or the teacher's lowest value
        (``z-score``). One that all are silent about comes last. Where one teacher failed, the whole has no label.

        Args:
            candidates: The list.
            opinions: Teacher -> what it says; the order is that of the weights.

        Raises:
            UsageError: Scores are to be joined and a teacher gives none.
        """
        weights = parse_weights(self.weights, len(opinions))
        failed = "; ".join(f"{name}: {one.failed}" for name, one in opinions.items() if one.failed)
        if failed:
            return Opinion(order=next(iter(opinions.values())).order, failed=failed)
        sums = weighted_sum([self._votes(candidates, name, one) for name, one in opinions.items()], weights)
        silent = frozenset.intersection(*(one.silent for one in opinions.values()))
        spoken = [one for one in candidates.doc_ids if one not in silent]
        ordered = sorted(spoken, key=lambda one: -sums[one])
        last = [one for one in candidates.doc_ids if one in silent]
        return Opinion(order=(*ordered, *last), scores={one: sums[one] for one in spoken}, silent=silent)

    def _votes(self, candidates: Ranking, name: str, opinion: Opinion) -> Votes:
        docs = [Document(id=one) for one in opinion.order if one not in opinion.silent]
        if self.how == "rrf":
            return reciprocal_ranks(Ranking.from_order(candidates.query, docs))
        if not opinion.scores and docs:
            raise no_scores(self.how, name)
        scored = Ranking(candidates.query, tuple(docs), tuple(opinion.scores[doc.id] for doc in docs))
        return _BY_SCORE[self.how](scored)


def no_scores(how: str, name: str) -> UsageError:
    """What to say where scores are to be joined and a teacher gives none."""
    return UsageError(
        f"--fuse {how} with the teacher {name!r}, which gives an order and no scores",
        expected="teachers with scores, or --fuse rrf, which needs ranks alone",
    )


def check_names(names: Sequence[str]) -> None:
    """Refuse a teacher that is named twice.

    Raises:
        UsageError: One is.
    """
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise UsageError(f"--teacher {twice[0]} twice", expected="each once", remedy="Give it weight with --weights")

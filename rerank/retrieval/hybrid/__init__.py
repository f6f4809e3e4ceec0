"""Several first stages at once, their lists fused into one: ``hybrid:bm25+dense``.

Knows how lists are joined (`_fusion` has the formulas), not how any of them is found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from rerank.collections.base.corpus import Corpus
from rerank.errors import UsageError
from rerank.retrieval import first_stages, index_folders, open_retriever
from rerank.retrieval.base import NeedsParts, Retriever
from rerank.retrieval.base.stages import DEPTH, checked_depth
from rerank.retrieval.hybrid.fusion import Votes, min_max, reciprocal_ranks, weighted_sum, z_score
from rerank.selector import Selector, build, split_outside
from rerank.types import Query, Ranking, Run

_PLUS = re.compile("[+]")


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Options of fused first stages.

    Attributes:
        stages: Two or more selectors of first stages, joined by ``+``. One that has options, or a ``+`` of its own,
            stands in parentheses: ``hybrid:(bm25,k1=1.2)+(run:a+b.trec)``.
        method: ``rrf``, by ranks alone (Cormack et al., SIGIR 2009), or ``weighted``, the sum of normalised scores.
        k: For ``rrf``: how little the first ranks stand out, from 0 up; 60 where it is not given, as in the paper.
        normalize: For ``weighted``: ``min-max`` (also where it is not given) or ``z-score``, for each list by itself.
        weights: One number a stage, in the order of the stages, joined by ``+``: ``weights=0.3+0.7``; all 1 where
            none are given.
        depth: How many documents are asked of each stage. It does not follow from how many are wanted, so that a
            shorter list is the beginning of a longer one; only where more are wanted, each stage is asked for as many.
            1000, the depth of TREC's runs, is ten times what a first stage returns by default.

    Raises:
        UnknownNameError: No such first stage, or a stage has no such option; the message suggests the nearest.
        UsageError: Fewer than two stages, a hybrid among them, or an option that does not fit.
    """

    stages: str
    _: KW_ONLY
    method: Literal["rrf", "weighted"] = "rrf"
    k: int | None = None
    normalize: Literal["min-max", "z-score"] | None = None
    weights: str = ""
    depth: int = 10 * DEPTH

    def __post_init__(self) -> None:
        """Check everything that can be known before a collection is there."""
        if self.method != "rrf" and self.k is not None:
            raise UsageError(f"k={self.k} with method={self.method}", expected="k with method=rrf only")
        if self.method != "weighted" and self.normalize is not None:
            raise UsageError(f"normalize={self.normalize} with method={self.method}", expected="method=weighted")
        if self.k is not None and self.k < 0:
            raise UsageError(f"Reciprocal ranks with k={self.k}", expected="a whole number from 0 up, such as 60")
        if self.depth < 1:
            raise UsageError(f"depth={self.depth} of the first stages in a hybrid", expected="at least 1")
        selectors = split_stages(self.stages)
        parse_weights(self.weights, len(selectors))
        for selector in selectors:
            if Selector.parse(selector).name == "hybrid":
                raise UsageError(f"{self.stages!r} has a hybrid in a hybrid", remedy="Name all stages side by side")
            build(first_stages, selector)

    def over(self, corpus: Corpus) -> HybridRetriever:
        """Open every stage over ``corpus``, in the order written, once all of them have what they need.

        Raises:
            RerankError: Whatever a stage raises.
        """
        self.check_parts()
        # open_retriever, since a document that the collection drops must not take a rank or stretch the scores
        return HybridRetriever(self, tuple(open_retriever(one, corpus) for one in split_stages(self.stages)))

    def check_parts(self) -> None:
        """See that what the stages run on is there.

        Raises:
            MissingPrerequisiteError: An extra or a program is not installed.
        """
        for selector in split_stages(self.stages):
            if isinstance(stage := build(first_stages, selector), NeedsParts):
                stage.check_parts()

    def votes(self) -> Callable[[Ranking], Votes]:
        """How a list is turned into values that can be added up."""
        if self.method == "rrf":
            k = 60 if self.k is None else self.k
            return lambda ranking: reciprocal_ranks(ranking, k)
        return z_score if self.normalize == "z-score" else min_max


@dataclass(frozen=True, slots=True)
class HybridRetriever:
    """Several first stages over one collection. Made by `Hybrid.over`."""

    options: Hybrid
    retrievers: tuple[Retriever, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the stages' indexes are."""
        return tuple(sorted(frozenset().union(*map(index_folders, self.retrievers))))

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the ``k`` documents with the highest fused scores for each query, of all that any stage found.

        A document that a list lacks gets 0 from it (``rrf``, ``min-max``) or the list's lowest value (``z-score``).
        A query for which no stage has a list is left out. Texts are those of the first stage that has the document.

        Raises:
            UsageError: ``k`` is below 1.
            RerankError: Whatever a stage raises.
        """
        depth = max(self.options.depth, checked_depth(k))
        runs = [retriever.search(queries, depth) for retriever in self.retrievers]
        votes, weights = self.options.votes(), parse_weights(self.options.weights, len(runs))
        found = []
        for query in queries:
            lists = [run[query.id] for run in runs if query.id in run]
            if lists:
                every = (run.get(query.id, Ranking(query, (), ())) for run in runs)
                scores = weighted_sum([votes(ranking) for ranking in every], weights)
                docs = {doc.id: doc for ranking in reversed(lists) for doc in ranking.docs}  # the first stage's stay
                found.append(Ranking.from_scores(query, ((docs[d], score) for d, score in scores.items())).top(k))
        return Run(found, name="hybrid")


def split_stages(text: str) -> list[str]:
    """The selectors of a hybrid's stages, without the parentheses around them.

    >>> split_stages("(bm25,k1=1.2)+run:a.trec")
    ['bm25,k1=1.2', 'run:a.trec']

    Raises:
        UsageError: There are fewer than two, or nothing where one should be.
    """
    parts = [part.strip() for part in split_outside(text, _PLUS)]
    found = [part[1:-1].strip() if part[:1] + part[-1:] == "()" else part for part in parts]
    if len(found) < 2 or not all(found):
        raise UsageError(
            f"The hybrid {text!r} names {len(found)} first stage(s), {found.count('')} of them empty",
            expected="two or more joined by +, such as hybrid:bm25+dense or hybrid:(bm25,k1=1.2)+run:FILE",
        )
    return found


def parse_weights(text: str, stages: int) -> tuple[float, ...]:
    """The weights of as many stages; all 1 if the text is empty.

    >>> parse_weights("0.3+0.7", 2)
    (0.3, 0.7)

    Raises:
        UsageError: There are not as many as stages, one is no finite number from 0 up, or all are 0.
    """
    try:
        found = tuple(map(float, text.split("+"))) if text else (1.0,) * stages
    except ValueError:
        found = ()
    if len(found) != stages or not all(math.isfinite(weight) and weight >= 0 for weight in found) or not any(found):
        raise UsageError(
            f"weights={text} for the {stages} stages of a hybrid",
            expected=f"{stages} numbers from 0 up, not all 0: weights={'+'.join(['0.5'] * stages)}",
        )
    return found

"""Hybrid retrieval, which fuses the rankings of several first stages into one, as in ``hybrid:bm25+dense``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from rerank.collections.base import Corpus
from rerank.errors import UsageError
from rerank.retrieval import first_stages, open_first_stage, retriever_index_folders
from rerank.retrieval.base import HasPrerequisites, Retriever
from rerank.retrieval.base.stages import DEPTH, check_depth
from rerank.selector import Selector, build_from_selector, split_outside_parentheses
from rerank.types import Query, Ranking, Run


@dataclass(frozen=True, slots=True)
class Hybrid:
    """The options of hybrid retrieval."""

    #: Two or more selectors of first stages, joined by ``+``. A selector that has options or contains a ``+`` must be
    #: in parentheses: ``hybrid:(bm25,k1=1.2)+(run:a+b.trec)``.
    stages: str
    _: KW_ONLY
    #: ``rrf`` fuses reciprocal ranks (Cormack et al., SIGIR 2009), ``weighted`` adds normalized scores.
    method: Literal["rrf", "weighted"] = "rrf"
    k: int | None = None  # for ``rrf``: the constant added to ranks, at least 0; the default is 60, as in the paper
    #: For ``weighted``: ``min-max`` (the default) or ``z-score``, applied to each ranking.
    normalize: Literal["min-max", "z-score"] | None = None
    weights: str = ""  # one weight per stage, joined by ``+``: ``weights=0.3+0.7``; if empty, every weight is 1
    #: Number of documents that each stage retrieves, even if fewer are requested, so a shorter ranking is a prefix of a
    #: longer one. If more documents are requested, each stage retrieves that many. The default of 1000 is the usual
    #: depth of TREC runs.
    depth: int = 10 * DEPTH

    def __post_init__(self) -> None:
        if self.method != "rrf" and self.k is not None:
            raise UsageError(
                f"Hybrid retrieval has k={self.k} with method={self.method}",
                expected="the option k only with method=rrf",
            )
        if self.method != "weighted" and self.normalize is not None:
            raise UsageError(
                f"Hybrid retrieval has normalize={self.normalize} with method={self.method}",
                expected="the option normalize only with method=weighted",
            )
        if self.k is not None and self.k < 0:
            raise UsageError(f"Hybrid retrieval has k={self.k}", expected="a whole number of at least 0, such as 60")
        if self.depth < 1:
            raise UsageError(f"Hybrid retrieval has depth={self.depth}", expected="at least 1")
        selectors = self.nested_stages
        parse_weights(self.weights, len(selectors))
        for selector in selectors:
            if Selector.parse(selector).name == "hybrid":
                raise UsageError(
                    f"{self.stages!r} contains a hybrid in a hybrid", remedy="List all stages in one hybrid"
                )
            build_from_selector(first_stages, selector)

    @property
    def nested_stages(self) -> tuple[str, ...]:
        return tuple(split_stages(self.stages))

    def over(self, corpus: Corpus) -> HybridRetriever:
        self.check_prerequisites()
        # open_first_stage drops the query's own document, which must not take up a rank or affect the normalization
        return HybridRetriever(self, tuple(open_first_stage(selector, corpus) for selector in self.nested_stages))

    def check_prerequisites(self) -> None:
        for selector in self.nested_stages:
            if isinstance(stage := build_from_selector(first_stages, selector), HasPrerequisites):
                stage.check_prerequisites()

    def normalizer(self) -> Callable[[Ranking], FusionValues]:
        """Return the function that turns a ranking into values that can be added to those of other rankings."""
        if self.method == "rrf":
            k = 60 if self.k is None else self.k
            return lambda ranking: reciprocal_rank_fusion(ranking, k)
        return z_score_fusion if self.normalize == "z-score" else min_max_fusion


@dataclass(frozen=True, slots=True)
class HybridRetriever:
    """A retriever that fuses the rankings of several first stages over one collection, created by `Hybrid.over`."""

    options: Hybrid
    retrievers: tuple[Retriever, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(sorted(frozenset().union(*map(retriever_index_folders, self.retrievers))))

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the ``k`` documents per query with the highest fused scores, among all documents that any stage found.

        A document that is missing from a ranking has the value 0 in it (``rrf``, ``min-max``) or the lowest value of
        the ranking (``z-score``). Queries for which no stage returns a ranking are omitted. If several stages find a
        document, its text comes from the stage listed first.
        """
        depth = max(self.options.depth, check_depth(k))
        runs = [retriever.search(queries, depth) for retriever in self.retrievers]
        normalize, weights = self.options.normalizer(), parse_weights(self.options.weights, len(runs))
        fused = []
        for query in queries:
            if lists := [run[query.id] for run in runs if query.id in run]:
                every = (run.get(query.id, Ranking(query, (), ())) for run in runs)
                scores = weighted_fusion_sum([normalize(ranking) for ranking in every], weights)
                docs = {
                    doc.id: doc for ranking in reversed(lists) for doc in ranking.docs
                }  # the text from the earliest stage is kept
                fused.append(Ranking.from_scores(query, ((docs[d], score) for d, score in scores.items())).top(k))
        return Run(fused, name="hybrid")


def split_stages(text: str) -> list[str]:
    """Return the selectors of the stages of a hybrid, without their outer parentheses.

    >>> split_stages("(bm25,k1=1.2)+run:a.trec")
    ['bm25,k1=1.2', 'run:a.trec']
    """
    parts = [part.strip() for part in split_outside_parentheses(text, re.compile("[+]"))]
    selectors = [part[1:-1].strip() if part[:1] + part[-1:] == "()" else part for part in parts]
    if len(selectors) < 2 or not all(selectors):
        raise UsageError(
            f"The hybrid {text!r} has {len(selectors)} first stage(s), of which {selectors.count('')} are empty",
            expected="two or more first stages joined by +, such as hybrid:bm25+dense or hybrid:(bm25,k1=1.2)+run:FILE",
        )
    return selectors


def parse_weights(text: str, stages: int) -> tuple[float, ...]:
    """Parse the option ``weights``, and return one weight per stage; all weights are 1 if ``text`` is empty.

    >>> parse_weights("0.3+0.7", 2)
    (0.3, 0.7)
    """
    try:
        weights = tuple(map(float, text.split("+"))) if text else (1.0,) * stages
    except ValueError:
        weights = ()
    valid = all(math.isfinite(weight) and weight >= 0 for weight in weights) and any(weights)
    if len(weights) != stages or not valid:
        raise UsageError(
            f"Hybrid retrieval has weights={text} for the {stages} stages",
            expected=f"{stages} numbers of at least 0, not all 0: weights={'+'.join(['0.5'] * stages)}",
        )
    return weights


@dataclass(frozen=True, slots=True)
class FusionValues:
    """The values that one ranked list assigns to documents, before they are added to those of other lists."""

    values: Mapping[str, float]
    missing: float = 0.0  # the value of documents that are not in the list

    def __getitem__(self, doc_id: str) -> float:
        return self.values.get(doc_id, self.missing)


def reciprocal_rank_fusion(ranking: Ranking, k: int = 60) -> FusionValues:
    """Return the values of one list for reciprocal rank fusion: ``1 / (k + r(d))``, and 0 for all other documents.

    ``r(d)`` is the rank of document d, from 1. Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion
    outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009, where ``RRFscore(d)`` is the sum of these
    values over all lists, and k is 60.
    """
    return FusionValues({doc_id: 1.0 / (k + rank) for rank, doc_id in enumerate(ranking.doc_ids, 1)})


def min_max_fusion(ranking: Ranking) -> FusionValues:
    """Return the min-max normalized scores of one list, ``(s(d) - min) / (max - min)``, and 0 for all other documents.

    If all scores are equal, the value is 1. Source: Lee, "Analyses of Multiple Evidence Combination", SIGIR 1997.
    """
    if not _scores_differ(ranking):
        return _membership(ranking)
    scores = _scaled(ranking.scores)
    low, span = scores[-1], scores[0] - scores[-1]
    return FusionValues({doc_id: (s - low) / span for doc_id, s in zip(ranking.doc_ids, scores, strict=True)})


def z_score_fusion(ranking: Ranking) -> FusionValues:
    """Return the z-scores of one list, ``(s(d) - mean) / deviation``, with the population standard deviation.

    Documents that are not in the list receive its lowest value, not 0, because 0 is the mean and would rank them above
    half of the list. If all scores are equal, the value is 1 for documents of the list and 0 for all others.
    Source: Montague and Aslam, "Relevance Score Normalization for Metasearch", CIKM 2001 (zero mean, unit variance).
    """
    if not _scores_differ(ranking):
        return _membership(ranking)
    scores = _scaled(ranking.scores)
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / len(scores))
    values = [(s - mean) / deviation for s in scores]
    return FusionValues(dict(zip(ranking.doc_ids, values, strict=True)), missing=values[-1])


def _scores_differ(ranking: Ranking) -> bool:
    return len(ranking) > 0 and ranking.scores[0] > ranking.scores[-1]


def _scaled(scores: Sequence[float]) -> list[float]:
    """Divide scores by their largest absolute value, so that differences and squares neither overflow nor underflow."""
    unit = max(abs(scores[0]), abs(scores[-1]))
    return [score / unit for score in scores]


def _membership(ranking: Ranking) -> FusionValues:
    return FusionValues(dict.fromkeys(ranking.doc_ids, 1.0))


def weighted_fusion_sum(lists: Sequence[FusionValues], weights: Sequence[float]) -> dict[str, float]:
    """Return ``sum over lists i of w_i * v_i(d)`` for every document in any list.

    ``w_i`` is the weight of list i, and ``v_i(d)`` the value that the list assigns to document d.
    With all weights equal to 1, this is CombSUM (Fox and Shaw, "Combination of Multiple Searches", TREC-2, 1994).
    The sum is rounded once (`math.fsum`), so it does not depend on the order of the lists.
    """
    doc_ids = dict.fromkeys(doc_id for one_list in lists for doc_id in one_list.values)
    return {d: math.fsum(w * values[d] for w, values in zip(weights, lists, strict=True)) for d in doc_ids}

"""First stages that return existing rankings: those of a run file, and a collection's own candidate lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rerank.collections.base import Corpus, SupportsCandidates, fetch_documents
from rerank.errors import DataError, UsageError
from rerank.io.run_files import read_run
from rerank.retrieval.base.stages import check_depth
from rerank.types import Query, Ranking
from rerank.types import Run as RankedRun


def select_lists(run: RankedRun, queries: Sequence[Query], k: int, *, source: str) -> list[Ranking]:
    """Return, for each given query, the first ``k`` documents of its ranking in a run.

    The rankings contain the given query objects, since those of a run may lack texts. Queries without a ranking and
    rankings of other queries are omitted: a run may cover more or fewer queries than those given, and evaluation
    reports the number of missing ones. ``source`` names the run in messages.
    """
    check_depth(k)
    rankings = [replace(run[query.id].top(k), query=query) for query in queries if query.id in run]
    if queries and not rankings:
        raise DataError(
            f"{source} has a ranking for none of the {len(queries)} queries: it contains the queries {_first(run)}, "
            f"but the given queries are {_first(query.id for query in queries)}",
            remedy="Check that the rankings and the queries belong to the same collection",
        )
    return rankings


def _first(ids: Iterable[str]) -> str:
    first = [repr(query_id) for query_id in islice(ids, 4)]
    return ", ".join(first[:3]) + (" and more" if len(first) > 3 else "") or "(none)"


@dataclass(frozen=True, slots=True)
class Run:
    """A first stage that returns the rankings of an existing run, in any format that `read_run` reads."""

    path: str

    def over(self, corpus: Corpus) -> RunRetriever:
        return RunRetriever(read_run(self.path), corpus, self.path)


@dataclass(frozen=True, slots=True)
class RunRetriever:
    """A retriever that returns the rankings of one run, with texts fetched from a collection in one lookup."""

    run: RankedRun
    corpus: Corpus
    path: str

    def search(self, queries: Sequence[Query], k: int) -> RankedRun:
        rankings = select_lists(self.run, queries, k, source=f"The run {self.path}")
        docs = fetch_documents(self.corpus, {doc_id for ranking in rankings for doc_id in ranking.doc_ids})
        with_texts = (replace(ranking, docs=tuple(docs[doc_id] for doc_id in ranking.doc_ids)) for ranking in rankings)
        return RankedRun(with_texts, name=self.run.name)


@dataclass(frozen=True, slots=True)
class Candidates:
    """A first stage that returns the collection's own candidate lists, such as the scoreddocs of ir_datasets."""

    def over(self, corpus: Corpus) -> CandidatesRetriever:
        if not (run := corpus.candidates() if isinstance(corpus, SupportsCandidates) else None):
            raise UsageError(
                f"The collection {corpus.name!r} has no candidate lists",
                expected="a collection with lists, such as requests:FILE or an irds: data set with scoreddocs",
                remedy="Use bm25 or run:FILE as first stage",
            )
        return CandidatesRetriever(run, corpus.name)


@dataclass(frozen=True, slots=True)
class CandidatesRetriever:
    """A retriever that returns the candidate lists of a collection."""

    run: RankedRun
    collection: str

    def search(self, queries: Sequence[Query], k: int) -> RankedRun:
        rankings = select_lists(self.run, queries, k, source=f"The collection {self.collection!r}")
        return RankedRun(rankings, name=self.run.name)

"""A first stage that returns the rankings of an existing run file, with texts from the collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank.collections.base.corpus import Corpus, fetch_documents
from rerank.io.run_files import read_run
from rerank.retrieval.base.lists import select_first_stage_lists
from rerank.types import Query
from rerank.types import Run as RankedRun


@dataclass(frozen=True, slots=True)
class Run:
    """A first stage that returns the rankings of an existing run.

    Attributes:
        path: The run file, in any format that `rerank.io.run_files.read_run` reads.
    """

    path: str

    def over(self, corpus: Corpus) -> RunRetriever:
        """Read the run file, and return a retriever that looks up texts in ``corpus``."""
        return RunRetriever(read_run(self.path), corpus, self.path)


@dataclass(frozen=True, slots=True)
class RunRetriever:
    """A retriever that returns the rankings of one run over one collection, created by `Run.over`."""

    run: RankedRun
    corpus: Corpus
    path: str

    def search(self, queries: Sequence[Query], k: int) -> RankedRun:
        """Return the first ``k`` documents of each ranking, with texts fetched from the collection in one lookup.

        Queries without a ranking and rankings of other queries are omitted.
        """
        rankings = select_first_stage_lists(self.run, queries, k, source=f"The run {self.path}")
        docs = fetch_documents(self.corpus, {doc_id for ranking in rankings for doc_id in ranking.doc_ids})
        with_texts = (replace(ranking, docs=tuple(docs[doc_id] for doc_id in ranking.doc_ids)) for ranking in rankings)
        return RankedRun(with_texts, name=self.run.name)

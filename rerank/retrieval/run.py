"""First stage from a file: the lists of an existing run, with the texts looked up in the collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank.collections.base.corpus import Corpus, fetch
from rerank.io.run_files import read_run
from rerank.retrieval.base.lists import lists_of
from rerank.types import Query
from rerank.types import Run as RankedRun


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run as first stage.

    Attributes:
        path: The file, in any form that `rerank.io.run_files.read_run` reads.
    """

    path: str

    def over(self, corpus: Corpus) -> RunRetriever:
        """Read the file.

        Raises:
            MissingResourceError: It is not there.
            DataError: It is no run.
        """
        return RunRetriever(read_run(self.path), corpus, self.path)


@dataclass(frozen=True, slots=True)
class RunRetriever:
    """The lists of one run over one collection. Made by `Run.over`."""

    run: RankedRun
    corpus: Corpus
    path: str

    def search(self, queries: Sequence[Query], k: int) -> RankedRun:
        """Return the first ``k`` documents of each list, with the collection's texts, fetched at once.

        A query without a list is left out, and lists of queries that were not asked are left aside.

        Raises:
            DataError: The run has none of the queries, or a document that the collection lacks.
            UsageError: ``k`` is below 1.
        """
        lists = lists_of(self.run, queries, k, source=f"The run {self.path}")
        docs = fetch(self.corpus, {doc_id for ranking in lists for doc_id in ranking.doc_ids})
        with_texts = (replace(ranking, docs=tuple(docs[doc_id] for doc_id in ranking.doc_ids)) for ranking in lists)
        return RankedRun(with_texts, name=self.run.name)

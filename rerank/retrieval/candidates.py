"""A first stage that returns the collection's own candidate lists, such as the scoreddocs of ir_datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.collections.base.corpus import Corpus, SupportsCandidates
from rerank.errors import UsageError
from rerank.retrieval.base.lists import select_first_stage_lists
from rerank.types import Query, Run


@dataclass(frozen=True, slots=True)
class Candidates:
    """A first stage that returns the collection's candidate lists. It has no options."""

    def over(self, corpus: Corpus) -> CandidatesRetriever:
        """Return a retriever over the candidate lists of ``corpus``."""
        run = corpus.candidates() if isinstance(corpus, SupportsCandidates) else None
        if not run:
            raise UsageError(
                f"The collection {corpus.name!r} has no candidate lists",
                expected="a collection with lists, such as requests:FILE or an irds: data set with scoreddocs",
                remedy="Use bm25 or run:FILE as first stage",
            )
        return CandidatesRetriever(run, corpus.name)


@dataclass(frozen=True, slots=True)
class CandidatesRetriever:
    """A retriever that returns the candidate lists of a collection, created by `Candidates.over`."""

    run: Run
    collection: str

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the first ``k`` documents of each candidate list; queries without a candidate list are omitted."""
        return Run(
            select_first_stage_lists(self.run, queries, k, source=f"The collection {self.collection!r}"),
            name=self.run.name,
        )

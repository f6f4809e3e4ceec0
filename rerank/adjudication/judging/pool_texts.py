"""Texts of the queries and documents in a pool, which are shown to the assessor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rerank.adjudication.judging.judgment import PendingJudgment
from rerank.adjudication.pools import Pool
from rerank.collections.base.corpus import Corpus, fetch_documents
from rerank.errors import DataError
from rerank.types import Document, Query, Window


@dataclass(frozen=True, kw_only=True)
class PoolTexts:
    """Queries and documents of a pool, by id."""

    queries: Mapping[str, Query]
    docs: Mapping[str, Document]

    @classmethod
    def look_up(cls, pool: Pool, queries: Iterable[Query], corpus: Corpus) -> PoolTexts:
        """Look up all texts at once. Missing texts are thus reported before judging starts.

        Raises:
            DataError: A query or document is missing. The message names some of the missing ids.
        """
        known = {query.id: query for query in queries}
        if missing := [topic.id for topic in pool.topics if topic.id not in known]:
            raise DataError(
                f"{len(missing)} of the {len(pool.topics)} topics of the runs, such as "
                f"{', '.join(map(repr, missing[:3]))}, have no query in the collection {corpus.name!r}",
                remedy="Check that the runs belong to this collection, and to this split if it has several",
            )
        return cls(queries=known, docs=fetch_documents(corpus, {doc for topic in pool.topics for doc in topic.docs}))

    def window(self, pending: PendingJudgment) -> Window:
        """Return the window to judge: the query and the single document of a pending judgment."""
        return Window(self.queries[pending.topic], (self.docs[pending.doc],))

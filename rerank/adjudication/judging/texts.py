"""The words behind a pool's ids: what a judge is shown. Knows neither orders nor judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rerank.adjudication.judging.judgment import Asked
from rerank.adjudication.pools import Pool
from rerank.collections.base.corpus import Corpus, fetch
from rerank.errors import DataError
from rerank.types import Document, Query, Window


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Queries and documents of a pool, by id."""

    queries: Mapping[str, Query]
    docs: Mapping[str, Document]

    @classmethod
    def of(cls, pool: Pool, queries: Iterable[Query], corpus: Corpus) -> Texts:
        """Look all of them up at once, so that nothing is found to be missing hours later.

        Raises:
            DataError: A topic or a document is not there; the message names some.
        """
        known = {query.id: query for query in queries}
        if missing := [topic.id for topic in pool.topics if topic.id not in known]:
            raise DataError(
                f"{len(missing)} of the {len(pool.topics)} topics of the runs have no query in the collection "
                f"{corpus.name!r}, first {', '.join(map(repr, missing[:3]))}",
                remedy="Check that the runs belong to this collection, and name its split if it has several",
            )
        return cls(queries=known, docs=fetch(corpus, {doc for topic in pool.topics for doc in topic.docs}))

    def window(self, asked: Asked) -> Window:
        """A query and the one document that is asked for."""
        return Window(self.queries[asked.topic], (self.docs[asked.doc],))

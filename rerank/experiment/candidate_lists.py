"""The first-stage lists of a run, which are in memory or read from a file again whenever they are needed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from rerank.errors import DataError
from rerank.io.pictures import picture_hash
from rerank.types import Ranking, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSurvey:
    """The results of one pass over first-stage lists.

    Attributes:
        digest: Hex SHA-256 of the lists as a reranker sees them.
        queries: Number of lists.
        lengths: Number of documents -> number of lists of that length.
    """

    digest: str
    queries: int
    lengths: Counter[int]


@dataclass(frozen=True, kw_only=True)
class CandidateLists:
    """First-stage lists that can be read any number of times. Unless they are kept, only one is in memory at a time.

    Attributes:
        name: Name of the first stage.
        read: Function that returns an iterator over the lists, one per query.
        kept: The lists if they are kept in memory; otherwise None.
    """

    name: str
    read: Callable[[], Iterable[Ranking]]
    kept: Run | None = None

    @classmethod
    def of(cls, run: Run) -> CandidateLists:
        """Return the lists of a run, kept in memory."""
        return cls(name=run.name, read=run.values, kept=run)

    @cached_property
    def run(self) -> Run:
        """All lists in memory."""
        return Run(self, name=self.name) if self.kept is None else self.kept

    @cached_property
    def survey(self) -> CandidateSurvey:
        """Digest, number and lengths of the lists; the first access reads all lists."""
        digest, lengths = RankingDigest(), Counter[int]()
        for ranking in self.read():
            digest.add(ranking)
            lengths[len(ranking)] += 1
        return CandidateSurvey(digest=digest.hexdigest(), queries=lengths.total(), lengths=lengths)

    def __iter__(self) -> Iterator[Ranking]:
        """Yield the lists. If they are not in memory, check at the end that they have not changed since the survey.

        Raises:
            DataError: The file was changed after the survey.
        """
        if self.kept is not None:
            yield from self.kept.values()
            return
        expected, digest = self.survey.digest, RankingDigest()
        for ranking in self.read():
            digest.add(ranking)
            yield ranking
        if digest.hexdigest() != expected:
            raise DataError("The candidates were changed while they were used", remedy="Restore the file")


class RankingDigest:
    """A hex SHA-256 over everything in rankings that a reranker sees: queries, documents, texts, pictures and order."""

    def __init__(self) -> None:
        """Start without rankings."""
        self._hash = hashlib.sha256()

    def add(self, ranking: Ranking) -> None:
        """Add the next ranking."""
        parts = [ranking.query.id, ranking.query.text]
        for doc in ranking.docs:
            parts += [doc.id, doc.title, doc.text]
            if doc.image:
                parts += ["picture", picture_hash(doc.image)]
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "big") + data)  # the length marks where a part ends

    def hexdigest(self) -> str:
        """Return the digest so far."""
        return self._hash.hexdigest()

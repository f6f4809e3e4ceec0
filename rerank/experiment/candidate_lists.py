"""First-stage candidate lists of a run, kept in memory or read from a file each time they are needed."""

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
    """Digest, number and lengths of candidate lists, computed in one pass over the lists.

    Attributes:
        digest: SHA-256, in hexadecimal, of everything in the lists that a reranker sees (`RankingDigest`).
        queries: Number of candidate lists.
        lengths: Mapping from each length (number of documents) to the number of lists with that length.
    """

    digest: str
    queries: int
    lengths: Counter[int]


@dataclass(frozen=True, kw_only=True)
class CandidateLists:
    """Candidate lists that can be read repeatedly. Unless they are kept in memory, they are read one at a time.

    Attributes:
        name: Name of the first stage.
        read: Function that returns an iterator over the candidate lists, one per query.
        kept: The candidate lists if they are kept in memory; otherwise None.
    """

    name: str
    read: Callable[[], Iterable[Ranking]]
    kept: Run | None = None

    @classmethod
    def of(cls, run: Run) -> CandidateLists:
        """Return the candidate lists of a run, kept in memory."""
        return cls(name=run.name, read=run.values, kept=run)

    @cached_property
    def run(self) -> Run:
        """All candidate lists, read into memory."""
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
        """Yield the candidate lists. If they are read from a file, check at the end that the file has not changed."""
        if self.kept is not None:
            yield from self.kept.values()
            return
        expected, digest = self.survey.digest, RankingDigest()
        for ranking in self.read():
            digest.add(ranking)
            yield ranking
        if digest.hexdigest() != expected:
            raise DataError("The candidate file was changed while it was in use", remedy="Restore the file")


class RankingDigest:
    """Incremental SHA-256 of everything in rankings that a reranker sees: queries, documents, pictures and order."""

    def __init__(self) -> None:
        """Create a digest that contains no rankings."""
        self._hash = hashlib.sha256()

    def add(self, ranking: Ranking) -> None:
        """Add the next ranking to the digest."""
        parts = [ranking.query.id, ranking.query.text]
        for doc in ranking.docs:
            parts += [doc.id, doc.title, doc.text]
            if doc.image:
                parts += ["picture", picture_hash(doc.image)]
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "big") + data)  # the length marks where a part ends

    def hexdigest(self) -> str:
        """Return the digest of the rankings added so far, in hexadecimal."""
        return self._hash.hexdigest()

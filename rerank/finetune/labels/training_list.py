"""A training list: a query, its documents in the order shown to the model, and the ranking that the model learns."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import DataError, error_repr
from rerank.types import Document, Order, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingList:
    """A query with documents and their ranking by a teacher.

    Attributes:
        query: The query.
        docs: Documents in the order in which they are shown to the model.
        order: The label: positions in ``docs``, best first; a permutation.
        scores: Teacher scores in the order of ``docs``; empty if there are none.
        teacher: Name of the teacher.
    """

    query: Query
    docs: tuple[Document, ...]
    order: Order
    scores: tuple[float, ...] = ()
    teacher: str = ""

    def __post_init__(self) -> None:
        """Check that the label is a permutation of the documents, and that there is one score per document or none."""
        name = f"The training list of query {error_repr(self.query.id)}"
        ids = [doc.id for doc in self.docs]
        if not ids:
            raise DataError(f"{name} is empty", expected="at least one document")
        if len(set(ids)) < len(ids):
            twice = next(doc_id for position, doc_id in enumerate(ids) if doc_id in ids[:position])
            raise DataError(f"{name} contains document {error_repr(twice)} twice", expected="each document once")
        if sorted(self.order) != list(range(len(ids))):
            raise DataError(
                f"{name} has a label that is not a permutation of its {len(ids)} documents",
                expected="each position once",
            )
        if self.scores and len(self.scores) != len(ids):
            raise DataError(
                f"{name} has {len(self.scores)} scores for {len(ids)} documents",
                expected="one score per document, or none",
            )

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.docs)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each document according to the label, from 1, in the order of ``docs``.

        >>> docs = tuple(Document(id=name) for name in "abc")
        >>> TrainingList(query=Query(id="q"), docs=docs, order=(2, 0, 1)).ranks
        (2, 3, 1)
        """
        rank_of = {position: rank for rank, position in enumerate(self.order, 1)}
        return tuple(rank_of[position] for position in range(len(self.docs)))

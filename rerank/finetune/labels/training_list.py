"""One training list: a query, its documents as they are shown, and the order that a model is to learn."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import DataError, shorten
from rerank.types import Document, Order, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingList:
    """What one training example is made from.

    Attributes:
        query: The query.
        docs: Its documents in the order in which they are shown.
        order: The label: positions in ``docs``, best first; a permutation.
        scores: The teacher's score of each document, in the order of ``docs``; empty where it gave none.
        teacher: Who made the label.

    Raises:
        DataError: No documents, one twice, or a label that is no permutation of them.
    """

    query: Query
    docs: tuple[Document, ...]
    order: Order
    scores: tuple[float, ...] = ()
    teacher: str = ""

    def __post_init__(self) -> None:
        """Check that the label is about these documents, each once."""
        who = f"The training list of query {shorten(self.query.id)}"
        ids = [doc.id for doc in self.docs]
        if not ids:
            raise DataError(f"{who} is empty", expected="at least one document")
        if len(set(ids)) < len(ids):
            twice = next(one for at, one in enumerate(ids) if one in ids[:at])
            raise DataError(f"{who} holds document {shorten(twice)} twice", expected="each once")
        if sorted(self.order) != list(range(len(ids))):
            raise DataError(f"{who} has a label that is no permutation of its {len(ids)} documents")
        if self.scores and len(self.scores) != len(ids):
            raise DataError(
                f"{who} has {len(self.scores)} scores for {len(ids)} documents", expected="one each, or none"
            )

    def __len__(self) -> int:
        """How many documents it has."""
        return len(self.docs)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each document under the label, from 1, in the order of ``docs``.

        >>> docs = tuple(Document(id=name) for name in "abc")
        >>> TrainingList(query=Query(id="q"), docs=docs, order=(2, 0, 1)).ranks
        (2, 3, 1)
        """
        place = {position: rank for rank, position in enumerate(self.order, 1)}
        return tuple(place[at] for at in range(len(self.docs)))

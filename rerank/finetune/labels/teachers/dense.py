"""The teacher that is an embedding model: candidates by the similarity of their vectors to the query's.

Only candidates are embedded, not the collection. What is embedded is kept as `rerank.retrieval.dense` keeps it, batch
by batch, so that a killed process is gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.experiment.candidates import digest
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import Opinion, Task, by_scores
from rerank.retrieval.dense import Dense as Searching
from rerank.types import Document, Query, Ranking, Run

_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Dense(Searching):
    """The options of the first stage `dense`; those of its indexes have no use, since nothing is searched.

    Raises:
        UsageError: An index is named, or a number is out of range.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what would be without effect."""
        Searching.__post_init__(self)
        if self.index != "flat":
            raise UsageError(f"The teacher dense with index={self.index}", expected="none: every candidate is scored")

    def scored(self, spec: RunSpec) -> bool:
        """It does."""
        return True

    def label(self, task: Task) -> tuple[Mapping[str, Opinion], Mapping[str, Any]]:
        """See `Teacher`. The scores are cosines, or inner products with ``normalise=false``.

        Raises:
            MissingPrerequisiteError: The extra ``dense`` is not installed.
            BackendError: The model fails; embeddings that were committed stay.
            RerankError: What `rerank.retrieval.dense.Dense.over` raises.
        """
        from rerank.indexing import documents as document_files
        from rerank.indexing import embeddings as embedding_files
        from rerank.indexing.text_encoder import load_encoder

        encoder = load_encoder(self)
        texts = _Candidates.of(task)
        if not texts.documents:
            return {query: Opinion(order=()) for query in task.candidates}, {}
        documents = document_files.open_documents(texts)
        made_from = {
            "format": _FORMAT,
            "fingerprint": texts.fingerprint,
            "fields": self.fields,
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        matrix = embedding_files.open_embeddings(
            documents, encoder, made_from, text=self.text_of, batch_size=self.batch_size
        )
        rows = {doc.id: at for at, doc in enumerate(texts.documents)}
        found = {}
        for query, ranking in task.candidates.items():
            if not ranking.query.text.strip():
                found[query] = Opinion(order=ranking.doc_ids, failed="the query is blank")
                continue
            (vector,) = encoder.queries([ranking.query.text])
            scores = matrix[[rows[one] for one in ranking.doc_ids]] @ vector
            found[query] = by_scores(ranking, dict(zip(ranking.doc_ids, map(float, scores), strict=True)))
        return found, {"embedded": len(texts.documents)}


@dataclass(frozen=True)
class _Candidates:
    """The candidates of all queries as a collection of their own, each document once."""

    name: str
    language: str
    documents: tuple[Document, ...]

    @classmethod
    def of(cls, task: Task) -> _Candidates:
        docs = {doc.id: doc for ranking in task.candidates.values() for doc in ranking.docs}
        documents = tuple(docs[one] for one in sorted(docs))
        return cls(f"candidates of {task.collection.name}", task.collection.language, documents)

    @property
    def fingerprint(self) -> str:
        return digest(Run([Ranking.from_order(Query(id="candidates"), self.documents)]))

    def docs(self) -> Iterator[Document]:
        return iter(self.documents)

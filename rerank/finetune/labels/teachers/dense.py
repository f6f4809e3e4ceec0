"""The teacher `dense`: an embedding model ranks candidates by their similarity to the query.

Only candidates are embedded, not the collection. Embeddings are stored batch by batch in the cache of
`rerank.retrieval.dense`, so that an interrupted process can be continued.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.experiment.candidates import digest_run
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import LabellingTask, TeacherRanking, rank_by_teacher_scores
from rerank.retrieval.dense import Dense as Searching
from rerank.types import Document, Query, Ranking, Run

_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Dense(Searching):
    """Teacher that ranks with an embedding model. Its options are those of the first stage `dense`."""

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Reject options that would have no effect."""
        Searching.__post_init__(self)
        if self.index != "flat":
            raise UsageError(
                f"The teacher dense does not support index={self.index}",
                expected="no option index, because every candidate is scored",
            )

    def scored(self, spec: RunSpec) -> bool:
        """Return True: the scores are similarities."""
        return True

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Rank the candidates by cosine similarity, or by inner product if ``normalise`` is False."""
        from rerank.indexing import documents as document_files
        from rerank.indexing import encoding_batches
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        encoder = load_text_encoder(locate_retrieval_model(self.model), self)
        texts = _Candidates.of(task)
        if not texts.documents:
            return {query: TeacherRanking(order=()) for query in task.candidates}, {}
        documents = document_files.open_documents(texts)
        made_from = {
            "format": _FORMAT,
            "fingerprint": texts.fingerprint,
            "fields": self.fields,
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        matrix = encoding_batches.open_embeddings(
            documents, encoder, made_from, text=self.text_of, batch_size=self.batch_size
        )
        rows = {doc.id: row for row, doc in enumerate(texts.documents)}
        rankings = {}
        for query, ranking in task.candidates.items():
            if not ranking.query.text.strip():
                rankings[query] = TeacherRanking(order=ranking.doc_ids, failed="the query is blank")
                continue
            (vector,) = encoder.queries([ranking.query.text])
            scores = matrix[[rows[doc_id] for doc_id in ranking.doc_ids]] @ vector
            rankings[query] = rank_by_teacher_scores(
                ranking, dict(zip(ranking.doc_ids, map(float, scores), strict=True))
            )
        return rankings, {"embedded": len(texts.documents)}


@dataclass(frozen=True)
class _Candidates:
    """The candidates of all queries as a collection that contains each document once."""

    name: str
    language: str
    documents: tuple[Document, ...]

    @classmethod
    def of(cls, task: LabellingTask) -> _Candidates:
        docs = {doc.id: doc for ranking in task.candidates.values() for doc in ranking.docs}
        documents = tuple(docs[doc_id] for doc_id in sorted(docs))
        return cls(f"candidates of {task.collection.name}", task.collection.language, documents)

    @property
    def fingerprint(self) -> str:
        return digest_run(Run([Ranking.from_order(Query(id="candidates"), self.documents)]))

    def docs(self) -> Iterator[Document]:
        return iter(self.documents)

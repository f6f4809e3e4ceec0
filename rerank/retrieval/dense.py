"""Dense retrieval: queries and documents as vectors of a sentence-transformers model, searched with faiss.

Embeddings and indexes are kept in the user's cache folder and memory-mapped when used again. Knows no reranker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.collections.base.corpus import Corpus
from rerank.indexing.vector_options import VectorOptions
from rerank.retrieval.base.stages import checked_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from pathlib import Path

    from rerank.indexing.documents import Documents
    from rerank.indexing.text_encoder import Encoder, Floats
    from rerank.indexing.vector_index import Kind, Searcher

_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Dense(VectorOptions):
    """Options of dense retrieval, beside those of `VectorOptions`.

    Attributes:
        model: A name that ``rerank models`` lists, a folder, or ``owner/model`` on the hub.
        fields: What is embedded: title and body, or the body alone.
        query_prompt: Text set before every query; ``auto`` is what the model was saved with, ``none`` is none.
        passage_prompt: Text set before every document, in the same way.
        normalise: Bring vectors to length 1, so that scores are cosines; else they are inner products.
        dim: Leading dimensions that are kept, for models trained so (Kusupati et al., NeurIPS 2022); 0 keeps all.

    Raises:
        UsageError: A number is out of range.
    """

    model: str = "all-minilm-l6-v2"
    _: KW_ONLY
    fields: Literal["title+text", "text"] = "title+text"
    query_prompt: str = "auto"
    passage_prompt: str = "auto"
    normalise: bool = True
    dim: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        VectorOptions.__post_init__(self)
        self._at_least({"dim": 0})

    def over(self, corpus: Corpus) -> DenseRetriever:
        """Load the model and open the saved index of ``corpus``; embed and build the first time.

        Raises:
            MissingPrerequisiteError: The extra ``dense`` is not installed.
            MissingResourceError: There is no such model, or it was not pulled.
            BackendError: The model failed; embeddings that were committed stay.
            DataError: The collection has no documents, or two with one id; or the model's weights are damaged.
            StorageError: The cache folder cannot be written.
            UsageError: An option does not fit the model, the collection or this machine.
        """
        from rerank.indexing.text_encoder import load_encoder

        return DenseRetriever(self, corpus, load_encoder(self))

    def check_parts(self) -> None:
        """See that sentence-transformers and faiss are there.

        Raises:
            MissingPrerequisiteError: One of them does not import.
        """
        from rerank.indexing.text_encoder import require

        require()

    def text_of(self, doc: Document) -> str:
        """Title and body, or the body alone."""
        return doc.text if self.fields == "text" else doc.full_text

    def made_from(self, documents: Documents) -> Mapping[str, str]:
        """Which of the two."""
        return {"fields": self.fields}


class DenseRetriever:
    """Vectors of one collection and the model that made them. Made by `Dense.over`.

    Attributes:
        identity: What the saved index was made from.
        folders: Where embeddings and index are.
    """

    #: The first stage that it belongs to: names its folders and its runs.
    stage: ClassVar[str] = "dense"

    def __init__(self, options: VectorOptions, corpus: Corpus, encoder: Encoder) -> None:
        """Open or build documents, embeddings and index."""
        # numpy is loaded from here on, not when options are only looked at
        from rerank.indexing import documents as document_files
        from rerank.indexing import embeddings as embedding_files
        from rerank.indexing import vector_index
        from rerank.io.sealed_folders import open_folder

        self._encoder = encoder
        self._documents = documents = document_files.open_documents(corpus)
        made_from = {
            "format": _FORMAT,
            "fingerprint": corpus.fingerprint,
            **options.made_from(documents),
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        matrix = embedding_files.open_embeddings(
            documents, encoder, made_from, text=options.text_of, batch_size=options.batch_size
        )
        kind = options.kind()
        self.identity: Mapping[str, str] = made_from | {
            "query_prompt": encoder.query_prompt,
            "index": json.dumps({"kind": options.index, **kind.made_with}, sort_keys=True),
        }
        folder = documents.folder.with_name(f"{self.stage}-{embedding_files.key_of(self.identity)}")
        self.folders = (embedding_files.folder_of(documents, made_from), folder)
        self._search = open_folder(
            folder,
            self.identity,
            lambda folder: self._write(kind, matrix, folder),
            lambda folder: self._read(kind, matrix, folder),
        )
        self._nearest = vector_index.nearest

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the ``k`` documents with the highest cosine or inner product for each query; all have one.

        A query without text gets an empty list. A query's list does not depend on which others are asked with it.

        Raises:
            UsageError: ``k`` is below 1.
            BackendError: The model fails.
        """
        checked_depth(k)
        asked = [query for query in queries if query.text.strip()]
        vectors = self._encoder.queries([query.text for query in asked])
        found = self._nearest(self._search, vectors, k, self._documents.id_ranks)
        ranked = {
            query.id: Ranking.from_scores(
                query, ((self._documents[int(at)], float(score)) for at, score in zip(*best, strict=True))
            )
            for query, best in zip(asked, found, strict=True)
        }
        return Run((ranked.get(query.id) or Ranking(query, (), ()) for query in queries), name=self.stage)

    def _write(self, kind: Kind, matrix: Floats, folder: Path) -> None:
        kind.write(matrix, folder)

    def _read(self, kind: Kind, matrix: Floats, folder: Path) -> Searcher:
        return kind.read(matrix, folder)

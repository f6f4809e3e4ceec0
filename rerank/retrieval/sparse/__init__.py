"""Learned sparse retrieval: texts as weighted words of a model's vocabulary, searched by their inner product.

For models of sentence-transformers' class SparseEncoder. Vectors are kept in the user's cache folder and memory-mapped
when used again. Knows no reranker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rerank.collections.base.corpus import Corpus
from rerank.errors import UsageError
from rerank.retrieval.base.stages import checked_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from rerank.retrieval.sparse.vectors import Floats, Integers, SparseEncoder

_FORMAT = "1"
#: Options that are counts, and the least that each may be.
_LEAST = {"max_active_dims": 0, "query_max_active_dims": 0, "batch_size": 1}


@dataclass(frozen=True, slots=True)
class Sparse:
    """Options of learned sparse retrieval.

    Source of the idea: SPLADE (Formal et al., SIGIR 2021 and arXiv 2109.10086); inference-free encoders, whose queries
    need a table of weights and no model: Geng et al., arXiv 2411.04403.

    Attributes:
        model: A folder, or ``owner/model`` on the hub.
        fields: What is encoded: title and body, or the body alone.
        query_prompt: Text set before every query; ``auto`` is what the model was saved with, ``none`` is none.
        passage_prompt: Text set before every document, in the same way.
        max_active_dims: Most dimensions that a document keeps, those with the largest weights; 0 is what the model was
            saved with, for most models all of them.
        query_max_active_dims: The same for queries.
        dtype: Number format of the model: ``float32``, ``bfloat16``, ``float16``, or ``auto``, which depends on the
            machine. Vectors are always saved as float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first accelerator, else the processor.
        batch_size: Documents encoded together; what a kill can lose. A batch takes much memory: a number for every word
            of the vocabulary, for every word of the batch.
        revision: Branch, tag or commit on the hub; empty is the default branch.
        trust_remote_code: Run the Python code that comes with a model. Off unless asked for.

    Raises:
        UsageError: A number is out of range.
    """

    model: str
    _: KW_ONLY
    fields: Literal["title+text", "text"] = "title+text"
    query_prompt: str = "auto"
    passage_prompt: str = "auto"
    max_active_dims: int = 0
    query_max_active_dims: int = 0
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device: str = "auto"
    batch_size: int = 8
    revision: str = ""
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise UsageError(f"Sparse retrieval with {name}={value}", expected=f"a whole number from {least} up")

    def over(self, corpus: Corpus) -> SparseRetriever:
        """Load the model and open the saved vectors of ``corpus``; encode it the first time.

        Raises:
            MissingPrerequisiteError: The extra ``sparse`` is not installed.
            MissingResourceError: There is no such model.
            BackendError: The model failed; vectors that were committed stay.
            DataError: The collection has no documents, or two with one id; or the model's weights are damaged.
            StorageError: The cache folder cannot be written.
            UsageError: The model is of another kind, or an option does not fit this machine.
        """
        from rerank.retrieval.sparse.encoder import load_sparse_encoder

        return SparseRetriever(self, corpus, load_sparse_encoder(self))

    def check_parts(self) -> None:
        """See that sentence-transformers is there.

        Raises:
            MissingPrerequisiteError: It does not import.
        """
        from rerank.retrieval.sparse.encoder import require_sparse

        require_sparse()

    def _text(self, doc: Document) -> str:
        return doc.text if self.fields == "text" else doc.full_text


class SparseRetriever:
    """Sparse vectors of one collection and the model that made them. Made by `Sparse.over`.

    Attributes:
        identity: What decides the lists: what the saved vectors were made from, and how queries are encoded.
        folders: Where the vectors are.
    """

    def __init__(self, options: Sparse, corpus: Corpus, encoder: SparseEncoder) -> None:
        """Open or make documents and vectors."""
        # numpy is loaded from here on, not when options are only looked at
        from rerank.indexing import documents as document_files
        from rerank.retrieval.sparse import vectors as sparse_vectors

        self._encoder = encoder
        self._documents = documents = document_files.open_documents(corpus)
        made_from = {
            "format": _FORMAT,
            "fingerprint": corpus.fingerprint,
            "fields": options.fields,
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        self._vectors = sparse_vectors.open_vectors(
            documents, encoder, made_from, text=options._text, batch_size=options.batch_size
        )
        self._rows_of = sparse_vectors.rows_of
        self.identity: Mapping[str, str] = {**made_from, **encoder.query_identity}
        self.folders: tuple[Path, ...] = (self._vectors.folder,)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the up to ``k`` documents with the highest inner products above zero for each query.

        Documents that share no dimension with a query are not returned, and a query without text gets an empty list.
        A query's list does not depend on which others are asked with it.

        Raises:
            UsageError: ``k`` is below 1.
            BackendError: The model fails.
        """
        checked_depth(k)
        asked = [query for query in queries if query.text.strip()]
        rows = self._rows_of(self._encoder.queries([query.text for query in asked]))
        ranked = {query.id: self._rank(query, *row, k) for query, row in zip(asked, rows, strict=True)}
        return Run((ranked.get(query.id) or Ranking(query, (), ()) for query in queries), name="sparse")

    def _rank(self, query: Query, dimensions: Integers, weights: Floats, k: int) -> Ranking:
        positions, scores = self._vectors.nearest(dimensions, weights, k, self._documents.id_ranks)
        docs = (self._documents[int(at)] for at in positions)
        return Ranking.from_scores(query, zip(docs, map(float, scores), strict=True))

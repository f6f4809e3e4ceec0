"""Learned sparse retrieval: a model represents texts as weighted vocabulary terms, which are searched by inner product.

Supported models are those of the class SparseEncoder in sentence-transformers. Vectors are stored in the user's cache
folder and memory-mapped when they are used again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rerank.collections.base import Corpus
from rerank.errors import UsageError
from rerank.indexing.options import ModelOptions
from rerank.retrieval.base.stages import check_depth
from rerank.tasks.worker_map import WorkerMap
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from rerank.indexing.encoding_batches import EncodingWorkers
    from rerank.indexing.text_encoder import TextEncoder
    from rerank.retrieval.sparse.vectors import SentenceSparseEncoder

_FORMAT = "1"
#: Minimum values of the options that are counts.
_MINIMA = {"max_active_dims": 0, "query_max_active_dims": 0, "batch_size": 1}


@dataclass(frozen=True)
class Sparse(ModelOptions):
    """The options of learned sparse retrieval.

    Sources: for SPLADE, Formal et al., SIGIR 2021 and arXiv 2109.10086; for inference-free encoders, which encode
    queries with a table of weights instead of a model, Geng et al., arXiv 2411.04403.
    """

    model: str  # a folder, or ``owner/model`` on the hub
    _: KW_ONLY
    fields: Literal["title+text", "text"] = "title+text"  # the text to encode: title and body, or only the body
    #: Text put before every query; ``auto`` for the prompt saved with the model, ``none`` for no prompt.
    query_prompt: str = "auto"
    passage_prompt: str = "auto"  # text put before every document, with the same special values as above
    #: Maximum number of nonzero dimensions per document; those with the largest weights are kept. 0 for the setting of
    #: the model, which for most models keeps all dimensions.
    max_active_dims: int = 0
    query_max_active_dims: int = 0  # maximum number of nonzero dimensions per query; 0 for the model's setting
    #: Number of documents encoded per batch; a killed process loses at most one batch. A batch needs much memory: for
    #: each of its tokens, one number per vocabulary term.
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name, lowest in _MINIMA.items():
            if (value := getattr(self, name)) < lowest:
                raise UsageError(
                    f"Sparse retrieval has {name}={value}", expected=f"a whole number of at least {lowest}"
                )

    def over(self, corpus: Corpus) -> SparseRetriever:
        return SparseRetriever(self, corpus, self._load())

    def over_with_workers(self, corpus: Corpus, workers: WorkerMap) -> SparseRetriever:
        from scipy.sparse import vstack

        from rerank.indexing.encoding_batches import EncodingWorkers

        encoder = self._load()
        same = replace(self, revision=encoder.identity.get("revision", self.revision))  # the commit, on every machine
        spread = EncodingWorkers(encoder=encoder, load=same._load, apply=workers, join=partial(vstack, format="csr"))
        return SparseRetriever(self, corpus, encoder, spread)

    def _load(self) -> SentenceSparseEncoder:
        from rerank.retrieval.base.model_folders import locate_retrieval_model
        from rerank.retrieval.sparse.vectors import load_encoder

        return load_encoder(locate_retrieval_model(self.model, kind="sparse"), self)

    def check_prerequisites(self) -> None:
        from rerank.retrieval.sparse.vectors import require_packages

        require_packages()

    def _text(self, doc: Document) -> str:
        return doc.text if self.fields == "text" else doc.full_text


class SparseRetriever:
    """A retriever with the sparse vectors of one collection and their model, created by `Sparse.over`."""

    def __init__(
        self,
        options: Sparse,
        corpus: Corpus,
        encoder: TextEncoder[csr_array],
        workers: EncodingWorkers[csr_array] | None = None,
    ) -> None:
        # imported here, so that inspecting the options does not import numpy
        from rerank.indexing import documents as document_files
        from rerank.indexing.encoding_batches import EncodingJob
        from rerank.retrieval.sparse import vectors as sparse_vectors

        self._encode_queries = (workers or encoder).queries
        self._documents = documents = document_files.open_documents(corpus)
        made_from = {
            "format": _FORMAT,
            "fingerprint": corpus.fingerprint,
            "fields": options.fields,
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        job = EncodingJob(documents, encoder, options._text, options.batch_size, workers)
        self._vectors = sparse_vectors.open_sparse_vectors(job, made_from)
        self._iter_rows = sparse_vectors.iterate_rows
        self.identity: Mapping[str, str] = {**made_from, **encoder.query_identity}
        self.folders: tuple[Path, ...] = (self._vectors.folder,)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query with the highest inner products above zero.

        Documents that share no dimension with a query are not returned. The ranking of a query without text is empty.
        A ranking does not depend on the other queries of the call.
        """
        check_depth(k)
        with_text = [query for query in queries if query.text.strip()]
        rows = self._iter_rows(self._encode_queries([query.text for query in with_text]))
        rankings = {}
        for query, row in zip(with_text, rows, strict=True):
            positions, scores = self._vectors.nearest(*row, k, self._documents.id_ranks)
            docs = (self._documents[int(position)] for position in positions)
            rankings[query.id] = Ranking.from_scores(query, zip(docs, map(float, scores), strict=True))
        return Run((rankings.get(query.id) or Ranking(query, (), ()) for query in queries), name="sparse")

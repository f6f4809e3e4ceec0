"""Dense retrieval with sentence-transformers and faiss. Embeddings and indexes are in the user's cache folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.collections.base import Corpus
from rerank.indexing.options import EncoderOptions, VectorOptions
from rerank.retrieval.base.stages import check_depth
from rerank.tasks.worker_map import WorkerMap
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from pathlib import Path

    from rerank.indexing.documents import StoredDocuments
    from rerank.indexing.encoding_batches import EncodingWorkers
    from rerank.indexing.text_encoder import Encoder, Floats, SentenceEncoder
    from rerank.indexing.vector_index import Searcher, VectorIndex

_FORMAT = "1"


@dataclass(frozen=True)
class Dense(VectorOptions, EncoderOptions):
    """The options of dense retrieval, in addition to those of `VectorOptions` and `EncoderOptions`."""

    model: str = "all-minilm-l6-v2"  # a name listed by ``rerank models``, a folder, or ``owner/model`` on the hub
    _: KW_ONLY
    fields: Literal["title+text", "text"] = "title+text"  # the text to embed: title and body, or only the body
    passage_prompt: str = "auto"  # text put before every document, with the special values of ``query_prompt``

    def __post_init__(self) -> None:
        VectorOptions.__post_init__(self)
        self._check_minima({"dim": 0})

    def over(self, corpus: Corpus) -> DenseRetriever:
        return DenseRetriever(self, corpus, self._load())

    def over_with_workers(self, corpus: Corpus, workers: WorkerMap) -> DenseRetriever:
        import numpy as np

        from rerank.indexing.encoding_batches import EncodingWorkers

        encoder = self._load()
        same = replace(self, revision=encoder.identity.get("revision", self.revision))  # the commit, on every machine
        spread = EncodingWorkers(encoder=encoder, load=same._load, apply=workers, join=np.concatenate)
        return DenseRetriever(self, corpus, encoder, spread)

    def _load(self) -> SentenceEncoder:
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        return load_text_encoder(locate_retrieval_model(self.model), self)

    def check_prerequisites(self) -> None:
        from rerank.indexing.text_encoder import require_encoder_packages

        require_encoder_packages()

    def text_of(self, doc: Document) -> str:
        return doc.text if self.fields == "text" else doc.full_text

    def made_from(self, documents: StoredDocuments) -> Mapping[str, str]:
        return {"fields": self.fields}


class DenseRetriever:
    """A retriever with the vectors of one collection and the model that computed them, created by `Dense.over`."""

    #: Name of the first stage, used in the names of folders and runs.
    stage: ClassVar[str] = "dense"

    def __init__(
        self, options: VectorOptions, corpus: Corpus, encoder: Encoder, workers: EncodingWorkers[Floats] | None = None
    ) -> None:
        # imported here, so that inspecting the options does not import numpy
        from rerank.indexing import documents as document_files
        from rerank.indexing import encoding_batches, vector_index
        from rerank.io.sealed_folders import open_sealed_folder

        self._embed_queries = (workers or encoder).queries
        self._documents = documents = document_files.open_documents(corpus)
        made_from = {
            "format": _FORMAT,
            "fingerprint": corpus.fingerprint,
            **options.made_from(documents),
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        job = encoding_batches.EncodingJob(documents, encoder, options.text_of, options.batch_size, workers)
        matrix, embeddings = encoding_batches.open_embeddings(job, made_from)
        index = options.vector_index()
        self.identity: Mapping[str, str] = made_from | {
            **encoder.query_identity,
            "index": json.dumps({"kind": options.index, **index.made_with}, sort_keys=True),
        }
        folder = documents.folder.with_name(f"{self.stage}-{document_files.folder_key(self.identity)}")
        self.folders = (embeddings, folder)
        self._search = open_sealed_folder(
            folder,
            self.identity,
            lambda folder: self._write(index, matrix, folder),
            lambda folder: self._read(index, matrix, folder),
        )
        self._nearest = vector_index.nearest_vectors

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the ``k`` documents per query with the highest cosine or inner product.

        The ranking of a query without text is empty. A ranking does not depend on the other queries of the call.
        """
        check_depth(k)
        with_text = [query for query in queries if query.text.strip()]
        vectors = self._embed_queries([query.text for query in with_text])
        results = self._nearest(self._search, vectors, k, self._documents.id_ranks)
        rankings = {
            query.id: Ranking.from_scores(
                query, ((self._documents[int(position)], float(score)) for position, score in zip(*hits, strict=True))
            )
            for query, hits in zip(with_text, results, strict=True)
        }
        return Run((rankings.get(query.id) or Ranking(query, (), ()) for query in queries), name=self.stage)

    def _write(self, index: VectorIndex, matrix: Floats, folder: Path) -> None:
        index.write(matrix, folder)

    def _read(self, index: VectorIndex, matrix: Floats, folder: Path) -> Searcher:
        return index.read(matrix, folder)

"""Dense retrieval: queries and documents as vectors of a sentence-transformers model, searched with faiss.

Embeddings and indexes are kept in the user's cache folder and memory-mapped when used again. Knows no reranker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

from rerank.corpus import Corpus
from rerank.errors import UsageError
from rerank.stages import checked_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from rerank.retrieval._encoder import Encoder
    from rerank.retrieval._vector_index import Kind

_FORMAT = "1"
#: Options that are counts, and the least that each may be.
_LEAST = {
    **dict.fromkeys(("dim", "nlist", "pq", "rescore"), 0),
    **dict.fromkeys(("batch_size", "ef_construction", "ef_search", "nprobe"), 1),
    "m": 2,
}


@dataclass(frozen=True, slots=True)
class Dense:
    """Options of dense retrieval.

    Attributes:
        model: A name that ``rerank models`` lists, a folder, or ``owner/model`` on the hub.
        index: ``flat`` compares every document; ``hnsw`` and ``ivfpq`` are faster on millions and may miss some.
        fields: What is embedded: title and body, or the body alone.
        query_prompt: Text set before every query; ``auto`` is what the model was saved with, ``none`` is none.
        passage_prompt: Text set before every document, in the same way.
        normalise: Bring vectors to length 1, so that scores are cosines; else they are inner products.
        dim: Leading dimensions that are kept, for models trained so (Kusupati et al., NeurIPS 2022); 0 keeps all.
        dtype: Number format of the model: ``float32``, ``bfloat16``, ``float16``, or ``auto``, which depends on the
            machine. Embeddings are always saved as float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first accelerator, else the processor.
        batch_size: Documents embedded together; what a kill can lose.
        revision: Branch, tag or commit on the hub; empty is the default branch.
        trust_remote_code: Run the Python code that comes with a model. Off unless asked for.
        m: HNSW: links of a document.
        ef_construction: HNSW: candidates looked at when a document is linked.
        ef_search: HNSW: candidates looked at in a search.
        nlist: IVF-PQ: cells; 0 chooses by the number of documents.
        pq: IVF-PQ: bytes of a document's code (the m of product quantisation); 0 is a quarter of the dimensions.
        nprobe: IVF-PQ: cells that a search looks into.
        rescore: IVF-PQ: candidates scored anew with their full embeddings; 0 leaves the scores of the codes.

    Raises:
        UsageError: A number is out of range.
    """

    model: str = "all-minilm-l6-v2"
    _: KW_ONLY
    index: Literal["flat", "hnsw", "ivfpq"] = "flat"
    fields: Literal["title+text", "text"] = "title+text"
    query_prompt: str = "auto"
    passage_prompt: str = "auto"
    normalise: bool = True
    dim: int = 0
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device: str = "auto"
    batch_size: int = 32
    revision: str = ""
    trust_remote_code: bool = False
    m: int = 32
    ef_construction: int = 200
    ef_search: int = 128
    nlist: int = 0
    pq: int = 0
    nprobe: int = 32
    rescore: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise UsageError(f"Dense retrieval with {name}={value}", expected=f"a whole number from {least} up")

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
        from rerank.retrieval._encoder import load_encoder

        return DenseRetriever(self, corpus, load_encoder(self))

    def check_parts(self) -> None:
        """See that sentence-transformers and faiss are there.

        Raises:
            MissingPrerequisiteError: One of them does not import.
        """
        from rerank.retrieval._encoder import require

        require()

    def _text(self, doc: Document) -> str:
        return doc.text if self.fields == "text" else doc.full_text

    def _kind(self) -> Kind:
        from rerank.retrieval._vector_index import Flat, Hnsw, IvfPq

        if self.index == "hnsw":
            return Hnsw(self.m, self.ef_construction, self.ef_search)
        return IvfPq(self.nlist, self.pq, self.nprobe, self.rescore) if self.index == "ivfpq" else Flat()


class DenseRetriever:
    """Vectors of one collection and the model that made them. Made by `Dense.over`.

    Attributes:
        identity: What the saved index was made from.
    """

    def __init__(self, options: Dense, corpus: Corpus, encoder: Encoder) -> None:
        """Open or build documents, embeddings and index."""
        # numpy is loaded from here on, not when options are only looked at
        from rerank.retrieval import _documents, _embeddings, _vector_index
        from rerank.retrieval._folders import open_folder

        self._encoder = encoder
        self._documents = documents = _documents.open_documents(corpus)
        made_from = {
            "format": _FORMAT,
            "fingerprint": corpus.fingerprint,
            "fields": options.fields,
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        matrix = _embeddings.open_embeddings(
            documents, encoder, made_from, text=options._text, batch_size=options.batch_size
        )
        kind = options._kind()
        self.identity: Mapping[str, str] = made_from | {
            "query_prompt": encoder.query_prompt,
            "index": json.dumps({"kind": options.index, **kind.made_with}, sort_keys=True),
        }
        self._search = open_folder(
            documents.folder.with_name(f"dense-{_embeddings.key_of(self.identity)}"),
            self.identity,
            lambda folder: kind.write(matrix, folder),
            lambda folder: kind.read(matrix, folder),
        )
        self._nearest = _vector_index.nearest

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
        return Run((ranked.get(query.id) or Ranking(query, (), ()) for query in queries), name="dense")

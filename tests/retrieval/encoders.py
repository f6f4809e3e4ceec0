"""Encoders for tests: some without a model, and tiny sentence-transformers models with random weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tests.backends.pairs import save

Floats = NDArray[np.float32]


class Fake:
    """Each text has a vector of length 1 of its own, drawn at random; remembers its batches.

    Args:
        size: Numbers in an embedding.
        identity: What it says of itself.
        query_prompt: What it says is set before queries; here without effect.
    """

    def __init__(self, size: int = 16, *, identity: Mapping[str, str] | None = None, query_prompt: str = "") -> None:
        self.size = size
        self.identity: Mapping[str, str] = identity or {"weights": "fake"}
        self.query_identity = {"query_prompt": query_prompt}
        self.batches: list[list[str]] = []

    def queries(self, texts: Sequence[str]) -> Floats:
        return np.stack([self.vector(text) for text in texts]) if texts else np.empty((0, self.size), dtype=np.float32)

    def passages(self, texts: Sequence[str]) -> Floats:
        self.batches.append(list(texts))
        return self.queries(texts)

    def vector(self, text: str) -> Floats:
        row = np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass"))).standard_normal(self.size)
        return (row / np.linalg.norm(row)).astype(np.float32)


def save_encoder(folder: Path, **settings: Any) -> Path:
    """A BERT with random weights and mean pooling, saved by sentence-transformers; settings are its own."""
    import sentence_transformers

    base = save(folder / "base", base=True)
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu", **settings)
    model.save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


class FakeSparse:
    """Each word is a dimension, its weight a quarter for each time it stands there; remembers its batches."""

    def __init__(self, size: int = 50, *, identity: Mapping[str, str] | None = None, query_prompt: str = "") -> None:
        self.size = size
        self.identity: Mapping[str, str] = identity or {"weights": "fake"}
        self.query_identity: Mapping[str, str] = {"query_prompt": query_prompt}
        self.batches: list[list[str]] = []

    def queries(self, texts: Sequence[str]) -> csr_array:
        return csr_array(self.dense(texts))

    def passages(self, texts: Sequence[str]) -> csr_array:
        self.batches.append(list(texts))
        return self.queries(texts)

    def dense(self, texts: Sequence[str]) -> Floats:
        rows = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row[zlib.crc32(word.encode("utf-8", "surrogatepass")) % self.size] += np.float32(0.25)
        return rows


def save_splade(folder: Path, **settings: Any) -> Path:
    """A BERT with a masked language model's head, random weights and SPLADE's pooling; settings are the library's."""
    import sentence_transformers

    base = save(folder / "base", head="BertForMaskedLM", initializer_range=1.0)
    model = sentence_transformers.SparseEncoder(str(base), device="cpu", **settings)
    model.save(str(folder / "splade"), create_model_card=False)
    return folder / "splade"


def save_inference_free(folder: Path) -> Path:
    """The same for documents; queries are a table of weights, one a word."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    splade: Any = SparseEncoder(str(save_splade(folder)), device="cpu")
    words: Any = splade[0].tokenizer
    table = SparseStaticEmbedding(words, weight=torch.arange(len(words), dtype=torch.float32) / 10, frozen=True)
    router = Router.for_query_document(query_modules=[table], document_modules=list(splade))
    SparseEncoder(modules=[router], device="cpu").save(str(folder / "inference-free"), create_model_card=False)
    return folder / "inference-free"


def save_multi_vector(folder: Path, *, skiplist: Sequence[str] = (), **settings: Any) -> Path:
    """A BERT with random weights and one vector per token; documents have no vectors for the words of the skiplist."""
    import sentence_transformers
    import torch
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(0)
    base = save(folder / "base", base=True)
    model: Any = sentence_transformers.MultiVectorEncoder(str(base), device="cpu", **settings)
    modules = [MultiVectorMask(skiplist_words=list(skiplist)) if isinstance(m, MultiVectorMask) else m for m in model]
    model = sentence_transformers.MultiVectorEncoder(modules=modules, device="cpu", **settings)
    model.save(str(folder / "multi-vector"), create_model_card=False)
    return folder / "multi-vector"

"""Encoders for tests: one without a model, and a tiny sentence-transformers model with random weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        self.query_prompt = query_prompt
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

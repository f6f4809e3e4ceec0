"""A tiny collection in memory, and a cache folder of the test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rerank.collections.base import Corpus
from rerank.types import Document

MakeCorpus = Callable[..., Corpus]


@dataclass
class Tiny:
    documents: list[Document]
    language: str
    name: str = "tiny"
    passes: int = 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.documents).encode("utf-8", "surrogatepass")).hexdigest()

    def docs(self) -> Iterator[Document]:
        self.passes += 1
        return iter(self.documents)


@pytest.fixture
def make_corpus() -> MakeCorpus:
    def make(*documents: Document | str, language: str = "en") -> Tiny:
        given = [d if isinstance(d, Document) else Document(id=f"d{i}", text=d) for i, d in enumerate(documents, 1)]
        return Tiny(given, language)

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "listrank"

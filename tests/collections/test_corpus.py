from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from rerank.collections.base import fetch_documents
from rerank.errors import DataError
from rerank.types import Document
from tests.raising import raises

DOCS = [Document(id=str(i), text=f"text {i}") for i in range(5)]


class Streamed:
    name, language, fingerprint = "streamed", "en", "0" * 64

    def __init__(self) -> None:
        self.read = 0

    def docs(self) -> Iterator[Document]:
        for doc in DOCS:
            self.read += 1
            yield doc


class Indexed(Streamed):
    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        return {doc.id: doc for doc in DOCS if doc.id in set(ids)}


def test_one_pass_that_ends_with_the_last_document_wanted() -> None:
    corpus = Streamed()
    assert fetch_documents(corpus, ["2", "0", "2"]) == {"0": DOCS[0], "2": DOCS[2]}
    assert corpus.read == 3


def test_nothing_wanted_reads_nothing() -> None:
    corpus = Streamed()
    assert fetch_documents(corpus, []) == {}
    assert corpus.read == 0


def test_random_access_where_there_is_any() -> None:
    corpus = Indexed()
    assert fetch_documents(corpus, iter(["4"])) == {"4": DOCS[4]}
    assert corpus.read == 0


@pytest.mark.parametrize("corpus", [Streamed(), Indexed()])
def test_documents_that_are_not_there(corpus: Streamed) -> None:
    with raises(DataError, "4", "5", "'streamed'", "'a'", "'b'", "'c'"):
        fetch_documents(corpus, ["a", "b", "c", "d", "1"])

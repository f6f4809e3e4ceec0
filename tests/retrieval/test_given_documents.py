"""Searching a list of texts without a file."""

from __future__ import annotations

import pytest

from rerank import Document, InMemoryCorpus, Query, Reranker, open_first_stage
from rerank.collections.base import fetch_documents
from rerank.errors import DataError, UsageError

TEXTS = ["cats chase mice", "dogs bark at night", "mice eat cheese"]


def test_texts_are_searched_and_reranked() -> None:
    pipeline = open_first_stage("bm25", InMemoryCorpus(TEXTS)) % 10 >> Reranker.from_pretrained("fake:reversed") % 2
    found = pipeline([Query(id="q", text="mice that cats chase")])["q"]
    assert [doc.text for doc in found.docs] == ["mice eat cheese", "cats chase mice"]  # BM25's order, reversed


def test_mappings_keep_their_ids_titles_and_other_keys() -> None:
    pets = {"id": 7, "title": "Pets", "text": "cats", "url": "https://a.example", "score": 1.5}
    corpus = InMemoryCorpus([pets, Document(id=8)])  # a number, as in many data frames
    first, second = corpus.docs()
    assert (first.id, first.title, first.source, second.id) == ("7", "Pets", {"url": "https://a.example"}, "8")
    assert fetch_documents(corpus, ["7"]) == {"7": first}
    assert corpus.with_source(Document(id="of a server", text="x")).text == "x"


def test_documents_that_are_found_keep_other_keys_which_the_index_does_not_store() -> None:
    for url in ("https://a.example", "https://b.example"):  # the second time, the index exists
        pages = [{"text": text, "url": url} for text in TEXTS]
        search = open_first_stage("bm25", InMemoryCorpus(pages)) % 1
        (found,) = search([Query(id="q", text="cheese")])["q"].docs
        assert (found.text, found.source["url"]) == ("mice eat cheese", url)


def test_an_index_is_used_again_for_the_same_documents_only() -> None:
    assert InMemoryCorpus(TEXTS).fingerprint == InMemoryCorpus(iter(TEXTS)).fingerprint
    assert InMemoryCorpus(TEXTS).fingerprint != InMemoryCorpus(TEXTS[::-1]).fingerprint
    assert InMemoryCorpus(["a", "b"]).fingerprint != InMemoryCorpus([{"text": "a", "title": "b"}]).fingerprint


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="list of documents"):
        InMemoryCorpus("one text")
    with pytest.raises(DataError, match="no documents"):
        InMemoryCorpus([])
    for value in (TEXTS, "one text", None):
        with pytest.raises(UsageError, match="InMemoryCorpus"):
            open_first_stage("bm25", value)
    with pytest.raises(UsageError, match="Query"):
        open_first_stage("bm25", InMemoryCorpus(TEXTS))(["a question"])
    with pytest.raises(DataError, match="Document 1 has the id 'a', which an earlier document has"):
        InMemoryCorpus([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}])

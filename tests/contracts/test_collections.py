"""The contract of collections: every registered one whose sample is in ``data/`` must fulfil it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from rerank.collections import Collection, collections, fetch_documents, open_collection
from rerank.collections.base import SupportsCandidates, SupportsCandidateStream, SupportsLookup
from rerank.types import Document

DATA = Path(__file__).parents[2] / "data"
#: Selectors of the samples, with ``{}`` for the folder ``data/``. Some collections have several formats.
SAMPLES: Mapping[str, tuple[str, ...]] = {
    "beir": ("beir:{}/beir", "beir:{}/beir,split=dev"),
    "cranfield": ("cranfield:{}/cranfield", "cranfield:{}/cisi"),
    "jsonl": ("jsonl:{}/jsonl",),
    "pydoc": ("pydoc",),
    "requests": tuple(f"requests:{{}}/requests/{file}" for file in ("rank_llm.jsonl", "rankgpt.json", "rankify.jsonl")),
    "trec": tuple(
        f"trec:docs={{}}/trec/docs,topics={{}}/trec/topics.{ext},qrels={{}}/trec/qrels.txt"
        for ext in ("txt", "xml", "tsv")
    ),
}
#: A file of documents in each sample, and a word in it.
DOCUMENT_FILES: Mapping[str, tuple[str, str]] = {
    "beir": ("beir/corpus.jsonl", "kettle with"),
    "cranfield": ("cranfield/cran.all.1400", "steadies"),
    "jsonl": ("jsonl/docs.jsonl", "Quinces"),
    "requests": ("requests/rank_llm.jsonl", "crosswise"),
    "trec": ("trec/docs/a.sgml", "lighthouse"),
}
each = pytest.mark.parametrize("selector", [selector for name in SAMPLES for selector in SAMPLES[name]])


def opened(selector: str, data: Path = DATA) -> Collection:
    return open_collection(selector.replace("{}", str(data)))


@pytest.mark.parametrize("name", collections.names())
def test_every_collection_has_a_sample(name: str) -> None:
    if name not in SAMPLES:
        pytest.skip(f"data/ has no sample of {name}; tests/collections covers it")
    assert type(opened(SAMPLES[name][0])) is collections.get(name)


@each
def test_documents_are_the_same_each_time_and_have_distinct_ids(selector: str) -> None:
    collection = opened(selector)
    docs = list(collection.docs())
    assert docs
    assert docs == list(collection.docs()) == list(opened(selector).docs())
    assert all(isinstance(doc, Document) and isinstance(doc.id, str) and doc.id for doc in docs)
    assert len({doc.id for doc in docs}) == len(docs)


@each
def test_queries_have_distinct_ids_and_text(selector: str) -> None:
    queries = opened(selector).queries()
    assert queries
    assert queries == opened(selector).queries()
    assert all(isinstance(query.id, str) and isinstance(query.text, str) for query in queries)
    assert len({query.id for query in queries}) == len(queries)


@each
def test_judgments_are_whole_numbers_of_queries_and_documents(selector: str) -> None:
    collection = opened(selector)
    qrels = collection.qrels()
    assert qrels == opened(selector).qrels()
    assert isinstance(collection.relevant, int)
    for query_id, grades in qrels.items():
        assert isinstance(query_id, str)
        assert all(isinstance(doc_id, str) and type(grade) is int for doc_id, grade in grades.items())
    known = {query.id for query in collection.queries()}
    # Judgments of queries that the collection lacks would count as zeros without anyone seeing why.
    assert set(qrels) <= known
    assert any(grade >= collection.relevant for grades in qrels.values() for grade in grades.values()) or not qrels


@each
def test_names_and_languages_are_there(selector: str) -> None:
    collection = opened(selector)
    assert collection.name
    assert len(collection.language) == 2
    assert isinstance(collection.drop_self, bool)


@each
def test_documents_are_found_by_id(selector: str) -> None:
    collection = opened(selector)
    docs = {doc.id: doc for doc in collection.docs()}
    some = list(docs)[:3]
    assert fetch_documents(collection, some) == {doc_id: docs[doc_id] for doc_id in some}
    if isinstance(collection, SupportsLookup):
        assert collection.lookup(["no such document"]) == {}


@each
def test_candidates_are_documents_of_the_collection(selector: str) -> None:
    collection = opened(selector)
    if not isinstance(collection, SupportsCandidates):
        pytest.skip("it has no candidate lists")
    ids = {doc.id for doc in collection.docs()}
    queries = {query.id for query in collection.queries()}
    for query_id, ranking in collection.candidates().items():
        assert query_id in queries
        assert set(ranking.doc_ids) <= ids
    if isinstance(collection, SupportsCandidateStream):
        for _ in range(2):
            assert list(collection.candidate_lists()) == list(collection.candidates().values())


@each
def test_the_fingerprint_is_stable(selector: str, tmp_path: Path) -> None:
    fingerprint = opened(selector).fingerprint
    assert len(bytes.fromhex(fingerprint)) == 32
    assert opened(selector).fingerprint == fingerprint
    copy = shutil.copytree(DATA, tmp_path / "data")
    assert opened(selector, copy).fingerprint == fingerprint  # the path does not matter


@pytest.mark.parametrize("name", DOCUMENT_FILES)
def test_the_fingerprint_differs_for_other_content(name: str, tmp_path: Path) -> None:
    selector = SAMPLES[name][0]
    copy = shutil.copytree(DATA, tmp_path / "data")
    file, word = DOCUMENT_FILES[name]
    text = (copy / file).read_text(encoding="utf-8")
    assert word in text
    (copy / file).write_text(text.replace(word, word[::-1]), encoding="utf-8")
    assert opened(selector, copy).fingerprint != opened(selector).fingerprint
    assert list(opened(selector, copy).docs()) != list(opened(selector).docs())

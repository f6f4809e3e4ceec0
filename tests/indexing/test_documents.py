from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.errors import DataError
from rerank.indexing.documents import corpus_folder, damaged_corpus_indexes, open_documents
from rerank.types import Document
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus

texts = st.text(st.characters(codec=None), max_size=20)
documents = st.lists(
    st.builds(Document, id=st.text(min_size=1, max_size=5), text=texts, title=texts),
    min_size=1,
    max_size=8,
    unique_by=lambda doc: doc.id,
)


@given(docs=documents)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_come_back_as_they_were(make_corpus: MakeCorpus, docs: list[Document]) -> None:
    saved = open_documents(make_corpus(*docs))
    assert list(saved) == docs
    assert [saved[i] for i in range(len(saved))] == docs
    ascending = sorted(doc.id for doc in docs)
    assert [ascending[rank] for rank in saved.id_ranks] == [doc.id for doc in docs]


def test_collection_is_read_once(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("one", "two")
    open_documents(corpus)
    open_documents(corpus)
    assert vars(corpus)["passes"] == 1


def test_empty_collection(make_corpus: MakeCorpus) -> None:
    with raises(DataError, "'tiny'"):
        open_documents(make_corpus())


def test_id_given_twice(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus(Document(id="b"), Document(id="a"), Document(id="b"))
    with raises(DataError, "'b'", "'tiny'"):
        open_documents(corpus)
    assert list(corpus_folder(corpus).iterdir()) == []


def test_fingerprint_that_is_no_hash(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus("one")
    monkeypatch.setattr(type(corpus), "fingerprint", "../../etc")
    with pytest.raises(DataError):
        open_documents(corpus)
    assert damaged_corpus_indexes("../../etc") == []


def test_a_changed_record_is_found_and_written_again(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("one", "two")
    file = corpus_folder(corpus) / "documents-1" / "documents.jsonl"
    open_documents(corpus)
    assert damaged_corpus_indexes(corpus.fingerprint) == []
    file.write_bytes(file.read_bytes().replace(b"two", b't"o'))
    assert [folder for folder, _ in damaged_corpus_indexes(corpus.fingerprint)] == [file.parent]
    with pytest.warns(UserWarning, match="documents-1"):
        saved = open_documents(corpus)
    assert [document.text for document in (saved[0], saved[1])] == ["one", "two"]


def test_files_that_do_not_fit_together_are_made_anew(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("one", "two")
    open_documents(corpus)
    offsets = corpus_folder(corpus) / "documents-1" / "offsets.npy"
    np.save(offsets, np.load(offsets) - 1)
    with pytest.warns(UserWarning, match="documents-1"):
        assert open_documents(corpus)[1].text == "two"

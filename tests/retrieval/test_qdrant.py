"""The first stage over Qdrant, in local mode; how a server is addressed."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client")

from rerank.errors import BackendError, DataError, MissingResourceError, RerankError, UsageError
from rerank.retrieval.base.document_stores import Qdrant
from rerank.types import Document, Query
from tests.raising import raises
from tests.retrieval.encoders import Fake, Floats
from tests.retrieval.stores import fill_qdrant

DOCS = [Document(id=f"d{n}", title=f"Title {n}", text=f"text {n}") for n in range(30)]
QUERY = Query(id="q", text="a query")


def vectors() -> Floats:
    return Fake().passages([doc.text for doc in DOCS])


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "qdrant")


def ids(folder: str, k: int = 10, **options: Any) -> tuple[str, ...]:
    options = {"id": "doc", "path": folder, **options}
    return Qdrant("docs", **options).retriever(Fake()).search([QUERY], k)["q"].doc_ids


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_the_nearest_documents_with_their_texts(folder: str, distance: str) -> None:
    fill_qdrant(Path(folder), DOCS, vectors(), distance)
    query = Fake().queries([QUERY.text])[0]
    best = np.argsort(-(vectors() @ query))[:10]
    ranking = Qdrant("docs", path=folder, id="doc", title="title").retriever(Fake()).search([QUERY], 10)["q"]
    assert ranking.docs == tuple(DOCS[position] for position in best)


def test_the_id_of_a_point_is_the_default(folder: str) -> None:
    fill_qdrant(Path(folder), DOCS, vectors())
    assert all(len(found) == 36 for found in ids(folder, id=""))


def test_ties_are_broken_by_id_also_at_the_last_rank(folder: str) -> None:
    # with one number other than 0, products of matrices are exact: local mode computes scores with them
    fill_qdrant(Path(folder), DOCS, np.repeat(np.eye(1, 16, dtype=np.float32), len(DOCS), axis=0), "Dot")
    assert ids(folder, 7) == tuple(sorted((doc.id for doc in DOCS), reverse=True)[:7])


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"text": "content"}, DataError, ["text"]),
        ({"id": "number"}, DataError, ["id"]),
        ({"id": "title"}, DataError, ["Same"]),
        ({"vector": "other"}, UsageError, ["other"]),
        ({"path": "/nowhere/at/all"}, MissingResourceError, ["/nowhere/at/all"]),
    ],
)
def test_what_is_wrong_with_options(
    folder: str, options: dict[str, Any], error: type[RerankError], named: list[str]
) -> None:
    fill_qdrant(Path(folder), [replace(doc, title="Same") for doc in DOCS], vectors())
    with raises(error, *named):
        ids(folder, **options)


def test_another_collection_and_another_dimension(folder: str) -> None:
    fill_qdrant(Path(folder), DOCS, vectors())
    with raises(UsageError, "other", "docs"):
        Qdrant("other", path=folder).retriever(Fake())
    with raises(UsageError, "16", "8"):
        Qdrant("docs", path=folder).retriever(Fake(8))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client forgets its lock's file
def test_a_folder_that_is_in_use(folder: str) -> None:
    from qdrant_client import QdrantClient

    fill_qdrant(Path(folder), DOCS, vectors())
    client = QdrantClient(path=folder)
    try:
        with raises(BackendError, folder):
            ids(folder)
        gc.collect()
    finally:
        client.close()


@pytest.mark.enable_socket
def test_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:1")
    with raises(BackendError, "QDRANT_URL"):
        Qdrant("docs").retriever(Fake())


@pytest.mark.parametrize("url", ["", "ftp://host", "https://user:s3cret@host"])
def test_addresses_that_cannot_be(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("QDRANT_URL", url)
    with raises(UsageError, "QDRANT_URL") as caught:
        Qdrant("docs").retriever(Fake())
    assert "s3cret" not in str(caught.value)

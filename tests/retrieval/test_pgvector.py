"""The first stage over PostgreSQL, against a real server in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("psycopg")

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, RerankError, UsageError
from rerank.retrieval.base.document_stores import Pgvector
from rerank.types import Document, Query
from tests.raising import raises
from tests.retrieval.encoders import Fake, Floats
from tests.retrieval.stores import fill_postgres, run_postgres

DOCS = [Document(id=f"d{n}", title=f"Title {n}", text=f"text {n}") for n in range(60)]
QUERY = Query(id="q", text="a query")
Fill = Callable[..., None]


@pytest.fixture(scope="module")
def server(socket_enabled_for_module: None) -> Iterator[str]:
    with run_postgres() as address:
        yield address


@pytest.fixture(scope="module")
def socket_enabled_for_module() -> Iterator[None]:
    import pytest_socket

    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(autouse=True)
def address(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", server)
    return server


def vectors(documents: list[Document] = DOCS) -> Floats:
    return Fake().passages([doc.text for doc in documents])


def ids(k: int = 10, **options: object) -> tuple[str, ...]:
    return Pgvector("docs", **options).retriever(Fake()).search([QUERY], k)["q"].doc_ids  # type: ignore[arg-type]


def run(address: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("distance", ["cosine", "inner-product", "l2"])
def test_the_nearest_documents_with_their_texts(address: str, distance: str) -> None:
    rows = vectors() * np.linspace(1, 2, len(DOCS), dtype=np.float32)[:, None]
    fill_postgres(address, DOCS, rows)
    query = Fake().queries([QUERY.text])[0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = {"cosine": unit @ query, "inner-product": rows @ query, "l2": -np.linalg.norm(rows - query, axis=1)}
    best = np.argsort(-scores[distance])[:10]
    ranking = Pgvector("docs", title="title", distance=distance).retriever(Fake()).search([QUERY], 10)["q"]  # type: ignore[arg-type]
    assert ranking.docs == tuple(DOCS[position] for position in best)
    np.testing.assert_allclose(ranking.scores, scores[distance][best], rtol=1e-5)


def test_ties_are_broken_by_id_also_at_the_last_rank(address: str) -> None:
    fill_postgres(address, DOCS, np.repeat(vectors(DOCS[:1]), len(DOCS), axis=0))
    assert [ids(k) for k in (1, 7)] == [tuple(sorted((doc.id for doc in DOCS), reverse=True)[:k]) for k in (1, 7)]


@pytest.mark.parametrize("index", ["hnsw (embedding vector_cosine_ops)", "ivfflat (embedding vector_cosine_ops)"])
def test_an_index_of_the_table_returns_as_many_as_are_asked_for(address: str, index: str) -> None:
    many = [Document(id=f"m{n}", text=f"number {n}") for n in range(600)]
    fill_postgres(address, many, vectors(many))
    run(address, f"CREATE INDEX ON docs USING {index}", "ANALYZE docs")
    run(address, "ALTER DATABASE postgres SET enable_seqscan = off")
    try:
        assert len(ids(200)) == 200
    finally:
        run(address, "ALTER DATABASE postgres RESET enable_seqscan")


def test_half_precision(address: str) -> None:
    fill_postgres(address, DOCS, vectors())
    full = ids()
    run(address, "ALTER TABLE docs ALTER embedding TYPE halfvec(16)")
    assert ids() == full


def test_transactions_only_read(address: str) -> None:
    fill_postgres(address, DOCS, vectors())
    run(
        address,
        "CREATE OR REPLACE FUNCTION log_it(text) RETURNS text LANGUAGE sql VOLATILE AS "
        "'INSERT INTO docs VALUES ($1, $1, $1); SELECT $1'",
        "CREATE OR REPLACE VIEW writing AS SELECT id, log_it(text) AS text, embedding FROM docs",
    )
    try:
        with raises(BackendError, "read-only"):
            Pgvector("writing").retriever(Fake()).search([QUERY], 3)
    finally:
        run(address, "DROP VIEW writing")


def test_rows_without_a_vector_are_not_found(address: str) -> None:
    fill_postgres(address, DOCS, vectors())
    run(address, "UPDATE docs SET embedding = NULL WHERE id <> 'd3'")
    assert ids() == ("d3",)


def test_names_are_quoted(address: str) -> None:
    table = 'odd"; DROP TABLE docs; --'
    fill_postgres(address, DOCS, vectors())
    fill_postgres(address, DOCS[:2], vectors(DOCS[:2]), table)
    run(address, 'ALTER TABLE "odd""; DROP TABLE docs; --" RENAME COLUMN text TO "the ""Text"""')
    ranking = Pgvector(table, text='the "Text"').retriever(Fake()).search([QUERY], 5)["q"]
    assert {doc.text for doc in ranking.docs} == {"text 0", "text 1"}
    assert len(ids(60)) == 60


@pytest.mark.parametrize(
    ("statement", "error", "named"),
    [
        ("UPDATE docs SET text = NULL WHERE id = 'd5'", DataError, ["d5", "text"]),
        ("UPDATE docs SET id = NULL WHERE id = 'd5'", DataError, ["id"]),
        ("UPDATE docs SET id = 'd4' WHERE id = 'd5'", DataError, ["d4"]),
        ("ALTER TABLE docs RENAME text TO content", UsageError, ["text", "content"]),
        ("ALTER TABLE docs ALTER embedding TYPE vector(3) USING NULL", UsageError, ["3", "16"]),
        ("ALTER TABLE docs ALTER embedding TYPE text", UsageError, ["embedding", "text"]),
        ("DROP TABLE docs", UsageError, ["docs"]),
        ("DROP EXTENSION vector CASCADE", MissingPrerequisiteError, ["CREATE EXTENSION"]),
    ],
)
def test_what_is_wrong_with_a_table(address: str, statement: str, error: type[RerankError], named: list[str]) -> None:
    fill_postgres(address, DOCS, vectors())
    run(address, statement)
    with raises(error, *named):
        ids(60)


def test_a_wrong_dimension_in_a_column_without_one(address: str) -> None:
    fill_postgres(address, DOCS, vectors())
    run(address, "ALTER TABLE docs ALTER embedding TYPE vector USING '[1,2]'")
    with raises(BackendError, "dimensions"):
        ids()


def test_queries_without_text_need_no_server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_postgres(address, DOCS, vectors())
    retriever = Pgvector("docs").retriever(Fake())
    monkeypatch.setenv("DATABASE_URL", "postgresql://tester@127.0.0.1:1/none")
    assert [len(ranking) for ranking in retriever.search([Query(id="a", text=" ")], 3).values()] == [0]
    with raises(BackendError, "127.0.0.1"):
        retriever.search([QUERY], 3)


def test_a_server_that_does_not_answer(address: str) -> None:
    import psycopg

    fill_postgres(address, DOCS, vectors())
    with psycopg.connect(address) as blocking:
        blocking.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        with raises(BackendError, "timeout"):
            ids(timeout=1)


@pytest.mark.parametrize("url", ["postgres//tester:s3cret@host/db", "postgresql://tester:s3cret@127.0.0.1:1/x"])
def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with raises((UsageError, BackendError)) as caught:
        ids()
    assert "s3cret" not in str(caught.value)


def test_a_timeout_that_cannot_be() -> None:
    with raises(UsageError, "timeout"):
        Pgvector("docs", timeout=0)

"""Document stores for tests: PostgreSQL with pgvector, Qdrant in local mode, and a stand-in for two search engines."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rerank.indexing.text_analysis import split_into_terms
from rerank.types import Document
from tests.retrieval.encoders import Floats


def postgres_programs() -> Path:
    """The folder of a server that has pgvector, as Debian installs it; without one, the test is skipped."""
    found = sorted(Path("/usr/share/postgresql").glob("*/extension/vector.control"))
    if not found:
        pytest.skip("no PostgreSQL with pgvector: apt-get install postgresql-17-pgvector")
    return Path("/usr/lib/postgresql") / found[-1].parts[-3] / "bin"


@contextmanager
def run_postgres() -> Iterator[str]:
    """Run a server on a loopback port in a temporary folder; yield the address of its database."""
    programs, folder = postgres_programs(), Path(tempfile.mkdtemp(prefix="listrank-postgres-"))
    unprivileged: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        unprivileged = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody", "nogroup")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True, "cwd": folder}
    data, options = folder / "data", f"-p {port} -c listen_addresses=127.0.0.1 -k '' -c fsync=off"
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w"]
    try:
        create = [str(programs / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run([*create, "--locale=C.UTF-8"], **quiet, **unprivileged)
        subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], **quiet, **unprivileged)
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet, **unprivileged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill_postgres(address: str, documents: Iterable[Document], vectors: Floats, table: str = "docs") -> None:
    """Make a table ``docs`` anew, with the columns id, title, text and embedding."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    with psycopg.connect(address) as connection:
        name = Identifier(*table.split("."))
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(SQL("DROP TABLE IF EXISTS {}").format(name))
        connection.execute(
            SQL("CREATE TABLE {} (id text, title text, text text, embedding vector({}))").format(name, vectors.shape[1])
        )
        for doc, vector in zip(documents, vectors, strict=True):
            row = (doc.id, doc.title, doc.text, str(vector.tolist()))
            connection.execute(SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(name), row)


def fill_qdrant(folder: Path, documents: Iterable[Document], vectors: Floats, distance: str = "Cosine") -> None:
    """Make a collection ``docs`` in local mode."""
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, PointStruct, VectorParams

    client = QdrantClient(path=str(folder))
    client.create_collection("docs", vectors_config=VectorParams(size=vectors.shape[1], distance=Distance(distance)))
    points = [
        PointStruct(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, doc.id)),
            vector=vector.tolist(),
            payload={"doc": doc.id, "title": doc.title, "text": doc.text},
        )
        for doc, vector in zip(documents, vectors, strict=True)
    ]
    client.upsert("docs", points)
    client.close()


class SearchEngine:
    """What a stand-in for OpenSearch and Elasticsearch has: one index ``docs``, and what it was asked.

    Attributes:
        rows: Id -> fields of a document, with its ``embedding``.
        searches: The body, the path and the headers of each search.
        answer: Replaces parts of each answer.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, Any]], size: int) -> None:
        self.rows, self.size = rows, size
        self.searches: list[tuple[dict[str, Any], str, Mapping[str, str]]] = []
        self.answer: dict[str, Any] = {}
        self.status = 200

    def mapping(self) -> dict[str, Any]:
        text, vector = {"type": "text"}, {"type": "dense_vector", "dims": self.size, "dimension": self.size}
        fields = {"title": text, "text": text, "embedding": vector, "doc": {"type": "keyword"}}
        return {"docs": {"mappings": {"properties": fields}}}

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        scores = {name: self._score(body, row) for name, row in self.rows.items()}
        best = sorted((name for name in scores if scores[name] > 0), key=lambda name: -scores[name])[: body["size"]]
        hits = [
            {
                "_id": name,
                "_score": scores[name],
                "_source": {key: value for key, value in self.rows[name].items() if key in body["_source"]},
            }
            for name in best
        ]
        found = {"timed_out": False, "_shards": {"total": 2, "failed": 0}, "hits": {"hits": hits}}
        return found | self.answer

    def _score(self, body: dict[str, Any], row: Mapping[str, Any]) -> float:
        """Cosine + 1 for a vector in the form of either engine; otherwise the number of words that both have."""
        knn = body.get("knn") or body["query"].get("knn", {}).get("embedding")
        if knn:
            vector = knn.get("query_vector") or knn["vector"]
            return float(1 + sum(a * b for a, b in zip(vector, row["embedding"], strict=True)))
        ((field, query),) = body["query"]["match"].items()
        return float(len(set(split_into_terms(query)) & set(split_into_terms(row[field]))))


@contextmanager
def run_search_engine(engine: SearchEngine) -> Iterator[str]:
    """Serve the stand-in on a loopback port; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, answer: object) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", self.headers.get("Accept", "application/json").split(",")[0])
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def do_HEAD(self) -> None:
            self.reply(200 if self.path.split("?")[0] == "/docs" else 404, {})

        def do_GET(self) -> None:
            self.reply(200, engine.mapping())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            engine.searches.append((body, self.path, dict(self.headers)))
            self.reply(engine.status, engine.search(body) if engine.status == 200 else {"error": "stopped"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

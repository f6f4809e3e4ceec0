"""A first stage that searches a PostgreSQL table with vectors of the extension pgvector.

The address comes from ``DATABASE_URL`` or from libpq's own variables and files (``PGHOST``, ``PGPASSWORD``,
``PGSSLMODE``, ``~/.pgpass``). All transactions are read-only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.errors import BackendError, MissingPrerequisiteError, UsageError
from rerank.retrieval.base.document_stores import StoreHit, StoreOptions, check_dimension, find_part

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

#: For each distance: the operator of pgvector, and the score as a function of the operator's value ``d``.
_OPERATORS = {"cosine": ("<=>", "1 - d"), "inner-product": ("<#>", "-d"), "l2": ("<->", "-d")}
_URL = "DATABASE_URL"
#: Maximum value of hnsw.ef_search that pgvector accepts.
_WIDEST = 1000


@dataclass(frozen=True)
class Pgvector(StoreOptions):
    """The options of retrieval from PostgreSQL, in addition to those of `StoreOptions`."""

    stage: ClassVar[str] = "pgvector"
    package: ClassVar[str] = "psycopg"

    table: str  # name of the table or view, optionally with its schema: ``schema.table``
    _: KW_ONLY
    id: str = "id"  # column with the identifier
    vector: str = "embedding"  # column with the vector, of the type ``vector`` or ``halfvec``
    #: Distance between vectors; should match the index of the column, if there is an index.
    distance: Literal["cosine", "inner-product", "l2"] = "cosine"

    @property
    def place(self) -> str:
        return f"the table {self.table!r}"

    def connect(self) -> AbstractContextManager[Connection[Any]]:
        return _connect_to_database(self.timeout)

    def find(self, client: Connection[Any], checked: str, encoder: Any, query: str, depth: int) -> list[StoreHit]:
        vector = str(encoder.queries([query])[0].tolist())
        # so that an index of pgvector returns ``depth`` documents; by default, an HNSW index returns at most 40
        client.execute(
            "SELECT set_config('hnsw.ef_search', least(%(most)s, greatest(%(depth)s, "
            "coalesce(current_setting('hnsw.ef_search', true), '40')::int))::text, true)",
            {"most": _WIDEST, "depth": depth},
        )
        version = client.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if version and tuple(map(int, version[0].split(".")[:2])) >= (0, 8):
            client.execute(
                "SELECT set_config('hnsw.iterative_scan', 'strict_order', true), "
                "set_config('ivfflat.iterative_scan', 'relaxed_order', true)"
            )
        rows = client.execute(self._statement(checked), {"vector": vector, "depth": depth}).fetchall()
        return [StoreHit(id=row[0], text=row[1], title=row[2], score=row[3]) for row in rows]

    def _table(self) -> Any:
        from psycopg.sql import Identifier

        return Identifier(*self.table.split("."))

    def _statement(self, kind: str) -> Composed:
        from psycopg.sql import SQL, Identifier

        operator, score = _OPERATORS[self.distance]
        return SQL(
            "SELECT id, text, title, {score} FROM (SELECT {id} AS id, {text} AS text, {title} AS title, "
            "{vector} {operator} %(vector)s::{kind} AS d FROM {table} WHERE {vector} IS NOT NULL "
            "ORDER BY {vector} {operator} %(vector)s::{kind} LIMIT %(depth)s) AS nearest ORDER BY d"
        ).format(
            id=Identifier(self.id),
            text=Identifier(self.text),
            title=Identifier(self.title) if self.title else SQL("NULL"),
            vector=Identifier(self.vector),
            table=self._table(),
            kind=Identifier(kind),
            operator=SQL(operator),
            score=SQL(score),
        )

    def check(self, client: Connection[Any], encoder: Any) -> str:
        """Return the type of the vectors."""
        quoted = self._table().as_string(client)
        if not client.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
            raise MissingPrerequisiteError(
                "The database does not have the extension pgvector",
                remedy="Run in this database: CREATE EXTENSION vector",
            )
        if client.execute("SELECT to_regclass(%s)", [quoted]).fetchone() == (None,):
            raise UsageError(f"There is no table {quoted} in the database", expected="TABLE or SCHEMA.TABLE")
        rows = client.execute(
            "SELECT attname, t.typname, atttypmod FROM pg_attribute JOIN pg_type t ON t.oid = atttypid "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [quoted],
        ).fetchall()
        columns = {name: (kind, dimension) for name, kind, dimension in rows}
        for name in (self.id, self.text, *([self.title] if self.title else [])):
            find_part("column", name, columns, self.place)
        kind, dimension = find_part("column", self.vector, columns, self.place)
        if kind not in ("vector", "halfvec"):
            raise UsageError(
                f"The column {self.vector!r} of {self.place} has the type {kind}", expected="vector or halfvec"
            )
        check_dimension(self.place, dimension if dimension > 0 else None, self.model, encoder.size)
        return str(kind)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def _connect_to_database(timeout: float) -> Iterator[Connection[Any]]:
    """Yield a connection in a read-only transaction whose statements are cancelled after ``timeout`` seconds.

    Settings apply only to this transaction, since a connection pooler may reuse the session for other clients.
    """
    import psycopg

    try:
        connection = psycopg.connect(
            os.environ.get(_URL, ""),
            connect_timeout=max(2, round(timeout)),
            prepare_threshold=None,  # with a connection pooler, statements that were prepared before may be missing
        )
    except psycopg.ProgrammingError:
        raise UsageError(  # without libpq's message, which shows the address with its password
            f"The environment variable {_URL} does not contain a PostgreSQL address",
            expected="postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full",
        ) from None
    except psycopg.Error as error:
        raise BackendError(
            f"PostgreSQL cannot be reached: {_on_one_line(error)}",
            remedy=f"Set {_URL}, or PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE, and check that the server runs",
        ) from error
    try:
        with connection:
            connection.read_only = True
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(round(1000 * timeout))])
            yield connection
    except psycopg.errors.QueryCanceled as error:
        raise BackendError(
            f"PostgreSQL did not answer within {timeout} seconds", remedy="Increase the option 'timeout'"
        ) from error
    except psycopg.Error as error:
        raise BackendError(
            f"PostgreSQL failed: {_on_one_line(error)}", remedy="Check the table and the user's access rights to it"
        ) from error

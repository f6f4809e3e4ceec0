"""First stages that search a user's own document store: Elasticsearch, OpenSearch, Qdrant or PostgreSQL.

A store returns its own texts, so the collection only has to provide the queries. The address and the key of a store
come from environment variables, because selectors are recorded in run folders, which users may share with others.
"""

from __future__ import annotations

import importlib
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from rerank.backends.base.addresses import Address, ServerProvider, api_key_for_server
from rerank.collections.base import Corpus
from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError, ensure
from rerank.indexing.options import EncoderOptions
from rerank.installation import install_command
from rerank.retrieval.base.given_documents import given_first_stage_candidates
from rerank.retrieval.base.stages import check_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed
    from qdrant_client import QdrantClient

    from rerank.indexing.text_encoder import Encoder


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHit:
    """A document as returned by a store, before its values are checked."""

    id: object  # the identifier; None if it is missing
    text: object  # the text; None if it is missing
    title: object  # the title; None if the document has no title
    score: float  # the score; higher is better


@dataclass(frozen=True, kw_only=True)
class StoreOptions(EncoderOptions):
    """Options shared by all first stages that search a document store; the model embeds only the queries."""

    stage: ClassVar[str]  # name of the first stage and of its extra
    package: ClassVar[str]  # name of the client's Python package
    deepest: ClassVar[int] = 1_000_000  # maximum number of documents per query that the store returns
    text: str = "text"  # field with the text of a document
    title: str = ""  # field with the title of a document; empty if documents have no title
    #: Embedding model that computed the store's vectors: a name listed by ``rerank models``, a folder, or
    #: ``owner/model`` on the hub.
    model: str = "all-minilm-l6-v2"
    timeout: float = 30.0  # seconds to wait for a response from the store, at least 1

    def __post_init__(self) -> None:
        is_long = math.isfinite(self.timeout) and self.timeout >= 1
        ensure(is_long, f"Option timeout={self.timeout} of the store is too small", expected="at least 1 second")
        ensure(self.dim >= 0, f"Option dim={self.dim} of the store is negative", expected="at least 0")

    @property
    @abstractmethod
    def place(self) -> str:
        """Description of the table, collection or index for messages, such as ``the table 'docs'``."""

    @property
    def uses_model(self) -> bool:
        """Whether vectors are searched, so that a model has to encode the queries."""
        return True

    @abstractmethod
    def connect(self) -> AbstractContextManager[Any]:
        """Connect to the store during a block; errors of its client become errors of this package."""

    @abstractmethod
    def check(self, client: Any, encoder: Encoder | None) -> Any:
        """Check the place, its fields and the dimension of its vectors, and return what `find` needs to know of it."""

    @abstractmethod
    def find(self, client: Any, checked: Any, encoder: Encoder | None, query: str, depth: int) -> Sequence[StoreHit]:
        """Return up to ``depth`` documents for the text of a query, best first."""

    def check_prerequisites(self) -> None:
        from rerank.indexing.text_encoder import require_encoder_packages

        try:
            importlib.import_module(self.package)
        except ImportError as error:
            raise MissingPrerequisiteError(
                f"The first stage {self.stage!r} needs {self.package}, which cannot be imported: {error}",
                remedy=f"Run: {install_command(self.stage, 'dense')}",
            ) from error
        if self.uses_model:
            require_encoder_packages()

    def over(self, corpus: Corpus) -> StoreRetriever:
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        self.check_prerequisites()
        return self.retriever(load_text_encoder(locate_retrieval_model(self.model), self) if self.uses_model else None)

    def retriever(self, encoder: Encoder | None) -> StoreRetriever:
        """Check the store, and return a retriever that encodes queries with ``encoder``."""
        with self.connect() as client:
            return StoreRetriever(self, encoder, self.check(client, encoder))


def check_dimension(place: str, found: int | None, model: str, size: int) -> None:
    """Check that the vectors of a store have as many dimensions as those of the model."""
    ensure(
        found is None or found == size,
        f"The vectors of {place} have {found} dimensions, but those of the model {model!r} have {size}",
        expected="the model that computed the vectors",
        remedy="Set the option 'model', and 'dim' if vectors were shortened",
    )


def find_part(kind: str, name: str, known: Mapping[str, T], place: str) -> T:
    """Return the part of a store with a given name, such as a column."""
    if name not in known:
        listed = ", ".join(sorted(known)[:12]) or "none"
        raise UsageError(f"There is no {kind} {name!r} in {place}", expected=f"one of (at most 12 shown): {listed}")
    return known[name]


@dataclass(frozen=True, slots=True)
class StoreRetriever:
    """A retriever over a document store, to which each call of `search` connects once."""

    store: StoreOptions
    encoder: Encoder | None
    checked: Any  # the result of `StoreOptions.check`

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query; the ranking of a query without text is empty.

        Raises:
            DataError: A document has no id or no text, or two documents have the same id.
            BackendError: The store cannot be reached, or does not respond in time.
        """
        store, deepest = self.store, self.store.deepest
        ensure(
            check_depth(k) <= deepest,
            f"{k} documents per query were requested from {store.place}",
            expected=f"at most {deepest}",
        )
        rankings = [Ranking(query, (), ()) for query in queries]
        if with_text := [(place, query) for place, query in enumerate(queries) if query.text.strip()]:
            with store.connect() as client:
                for place, query in with_text:
                    depth = min(k + 1, deepest)
                    hits = store.find(client, self.checked, self.encoder, query.text, depth)
                    # a tie that spans rank k is broken by document id, so all of its documents are needed
                    while k < len(hits) == depth < deepest and hits[k - 1].score == hits[-1].score:
                        depth = min(2 * depth, deepest)
                        hits = store.find(client, self.checked, self.encoder, query.text, depth)
                    rankings[place] = Ranking.from_scores(query, self._scored_documents(query, hits)).top(k)
        return Run(rankings, name=store.stage)

    def _scored_documents(self, query: Query, hits: Sequence[StoreHit]) -> list[tuple[Document, float]]:
        for hit in hits:
            if hit.id is None or hit.text is None:
                missing = "id" if hit.id is None else "text"
                name = f"document number {hits.index(hit) + 1}" if hit.id is None else f"document {str(hit.id)!r}"
                raise DataError(
                    f"In {self.store.place}, {name} for the query {query.id!r} has no {missing}",
                    expected=f"an id and a text in every document, and the option {missing!r} set to its field",
                )
        rows = [{"id": str(hit.id), "text": hit.text, "title": hit.title, "score": hit.score} for hit in hits]
        candidates = given_first_stage_candidates(rows)
        ids = [candidate.document.id for candidate in candidates]
        if len(set(ids)) < len(ids):
            duplicate = next(name for name in ids if ids.count(name) > 1)
            raise DataError(
                f"{self.store.place} contains the document {duplicate!r} more than once",
                expected="each id once",
                remedy="Set the option 'id' to a field whose value is unique for each document",
            )
        return [(candidate.document, candidate.score or 0.0) for candidate in candidates]


@dataclass(frozen=True)
class Elasticsearch(StoreOptions):
    """The options of retrieval from Elasticsearch, in addition to those of `StoreOptions`.

    Environment variables set the address (``ELASTICSEARCH_URL``) and the credentials: ``ELASTICSEARCH_API_KEY``, or
    ``ELASTICSEARCH_USERNAME`` and ``ELASTICSEARCH_PASSWORD``. ``ELASTICSEARCH_CA_CERTS`` is the path of the certificate
    authorities for servers with a private certificate.
    """

    stage: ClassVar[str] = "elasticsearch"
    package: ClassVar[str] = "elasticsearch"
    #: Name of the property that contains the dimension of vectors in the mapping of a field.
    dimension: ClassVar[str] = "dims"
    deepest: ClassVar[int] = 10_000  # the default of both engines (index.max_result_window)

    index: str  # name or alias of the index
    _: KW_ONLY
    id: str = ""  # field with the identifier; empty for the engine's own identifier, ``_id``
    #: Field with the vectors, for nearest-neighbour search; if empty, the words of the query are searched in the field
    #: named by ``text`` with BM25, whose statistics cover all shards.
    vector: str = ""

    @property
    def place(self) -> str:
        return f"the index {self.index!r}"

    @property
    def uses_model(self) -> bool:
        return bool(self.vector)

    def _fields(self) -> list[str]:
        return [name for name in (self.id, self.text, self.title) if name]

    def check(self, client: Any, encoder: Encoder | None) -> None:
        ensure(
            client.indices.exists(index=self.index),
            f"There is no index {self.index!r} in {self.stage}",
            expected="the name or alias of an existing index",
        )
        for mapping in client.indices.get_mapping(index=self.index).values():  # an alias may refer to several indexes
            fields: Mapping[str, Any] = mapping["mappings"].get("properties", {})
            for name in self._fields():
                find_part("field", name, fields, self.place)
            if encoder:
                size = find_part("field", self.vector, fields, self.place).get(self.dimension)
                check_dimension(self.place, size, self.model, encoder.size)

    def find(self, client: Any, checked: None, encoder: Encoder | None, query: str, depth: int) -> list[StoreHit]:
        if encoder:
            search, kind = self._nearest(encoder.queries([query])[0].tolist(), depth), {}
        else:
            # scores of one index must be comparable, so term frequencies are counted over all of its shards
            search, kind = {"query": {"match": {self.text: query}}}, {"search_type": "dfs_query_then_fetch"}
        answer = self._send(client, search | {"size": depth, "_source": self._fields()}, kind)
        shards = answer.get("_shards", {})
        if answer.get("timed_out") or shards.get("failed"):
            raise BackendError(
                f"{shards.get('failed', 0)} of {shards.get('total', '?')} shards of {self.place} failed, or timed out",
                expected="the results of all shards",
                remedy="Check the server's health, and increase the option 'timeout'",
            )
        hits = []
        for hit in answer["hits"]["hits"]:
            source = hit.get("_source", {})
            doc_id, title = source.get(self.id) if self.id else hit["_id"], source.get(self.title)
            hits.append(StoreHit(id=doc_id, text=source.get(self.text), title=title, score=hit["_score"]))
        return hits

    def _nearest(self, vector: list[float], depth: int) -> dict[str, Any]:
        candidates = min(10_000, max(100, 2 * depth))  # per shard
        return {"knn": {"field": self.vector, "query_vector": vector, "k": depth, "num_candidates": candidates}}

    def _send(self, client: Any, body: dict[str, Any], parameters: dict[str, str]) -> Any:
        fields = body.pop("_source")
        return client.search(index=self.index, source=fields, **body, **parameters)

    @contextmanager
    def connect(self) -> Iterator[Any]:
        prefix = self.stage.upper()
        user, password = (os.environ.get(f"{prefix}_{name}", "") for name in ("USERNAME", "PASSWORD"))
        provider = ServerProvider(
            keys=(f"{prefix}_API_KEY",), url_variable=f"{prefix}_URL", setting=f"the variable {prefix}_URL"
        )
        address = Address.parse(provider=provider)
        ensure(
            not user or address.private,
            f"{prefix}_PASSWORD would be sent to {address.url} without encryption",
            expected="an address with https",
        )
        login = (user, password) if user else None
        client, errors = self._open(
            address.url, api_key_for_server(address), login, {"ca_certs": os.environ.get(f"{prefix}_CA_CERTS")}
        )
        try:
            yield client
        except errors as error:
            raise BackendError(
                f"{self.stage} failed: {str(error)[:300]}",
                remedy=f"Check {prefix}_URL, {prefix}_API_KEY or {prefix}_USERNAME, and that the server runs",
            ) from error
        finally:
            client.close()

    def _open(
        self, url: str, key: str, login: tuple[str, str] | None, more: Mapping[str, Any]
    ) -> tuple[Any, tuple[type[Exception], ...]]:
        """Return a client that does not retry failed requests, and the exception classes that it raises."""
        import elasticsearch

        given = {name: value for name, value in {"api_key": key, "basic_auth": login, **more}.items() if value}
        client = elasticsearch.Elasticsearch(url, request_timeout=self.timeout, max_retries=0, **given)
        return client, (elasticsearch.ApiError, elasticsearch.TransportError)


@dataclass(frozen=True)
class Opensearch(Elasticsearch):
    """The options of retrieval from OpenSearch, which are those of `Elasticsearch`.

    The environment variables begin with ``OPENSEARCH`` instead of ``ELASTICSEARCH``.
    """

    stage: ClassVar[str] = "opensearch"
    package: ClassVar[str] = "opensearchpy"
    dimension: ClassVar[str] = "dimension"

    def _nearest(self, vector: list[float], depth: int) -> dict[str, Any]:
        return {"query": {"knn": {self.vector: {"vector": vector, "k": depth}}}}  # a query of the k-NN plug-in

    def _send(self, client: Any, body: dict[str, Any], parameters: dict[str, str]) -> Any:
        return client.search(index=self.index, body=body, params=parameters)

    def _open(
        self, url: str, key: str, login: tuple[str, str] | None, more: Mapping[str, Any]
    ) -> tuple[Any, tuple[type[Exception], ...]]:
        import opensearchpy

        headers = {"Authorization": f"ApiKey {key}"} if key else None
        given = {name: value for name, value in {"headers": headers, "http_auth": login, **more}.items() if value}
        client = opensearchpy.OpenSearch(url, timeout=self.timeout, max_retries=0, **given)
        return client, (opensearchpy.OpenSearchException,)


_PROVIDER = ServerProvider(keys=("QDRANT_API_KEY",), url_variable="QDRANT_URL", setting="the variable QDRANT_URL")


@dataclass(frozen=True)
class Qdrant(StoreOptions):
    """The options of retrieval from Qdrant, in addition to those of `StoreOptions`."""

    stage: ClassVar[str] = "qdrant"
    package: ClassVar[str] = "qdrant_client"

    collection: str  # name of the collection
    _: KW_ONLY
    #: Folder of the local mode; empty for the server at ``QDRANT_URL``, with the key in ``QDRANT_API_KEY``.
    path: str = ""
    id: str = ""  # field of the payload with the identifier; empty for the point's id
    vector: str = ""  # name of the vector to search, for points with named vectors; empty for the unnamed vector

    @property
    def place(self) -> str:
        return f"the collection {self.collection!r} of Qdrant"

    def find(self, client: QdrantClient, checked: int, encoder: Any, query: str, depth: int) -> list[StoreHit]:
        hits = []
        for point in client.query_points(
            self.collection,
            query=encoder.queries([query])[0].tolist(),
            using=self.vector or None,
            limit=depth,
            with_payload=True,
        ).points:
            payload = point.payload or {}
            doc_id, title = payload.get(self.id) if self.id else point.id, payload.get(self.title)
            hits.append(StoreHit(id=doc_id, text=payload.get(self.text), title=title, score=checked * point.score))
        return hits

    def check(self, client: QdrantClient, encoder: Any) -> int:
        """Return the sign that makes higher scores better: 1 for similarity, -1 for distance."""
        if not client.collection_exists(self.collection):
            known = {found.name: None for found in client.get_collections().collections}
            find_part("collection", self.collection, known, "Qdrant")
        vectors: Any = client.get_collection(self.collection).config.params.vectors
        vector = find_part("vector", self.vector, vectors if isinstance(vectors, dict) else {"": vectors}, self.place)
        check_dimension(self.place, vector.size, self.model, encoder.size)
        return 1 if vector.distance.value in ("Cosine", "Dot") else -1

    @contextmanager
    def connect(self) -> Iterator[QdrantClient]:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ApiException

        client = None
        try:
            client = QdrantClient(**self._location(), timeout=round(self.timeout), check_compatibility=False)
            yield client
        except ApiException as error:
            raise BackendError(
                f"Qdrant failed: {str(error).strip()}",
                remedy="Check QDRANT_URL and QDRANT_API_KEY, and that the server runs",
            ) from error
        except RuntimeError as error:  # local mode raises it for a folder that another process has open
            raise BackendError(f"Qdrant cannot open {self.path!r}: {error}") from error
        finally:
            if client is not None:
                client.close()

    def _location(self) -> dict[str, Any]:
        if self.path:
            if not Path(self.path).expanduser().is_dir():  # the client would create it
                raise MissingResourceError(f"There is no folder {self.path!r}", remedy="Check the option 'path'")
            return {"path": str(Path(self.path).expanduser())}
        address = Address.parse(provider=_PROVIDER)
        return {"url": address.url, "port": None, "api_key": api_key_for_server(address) or None}


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

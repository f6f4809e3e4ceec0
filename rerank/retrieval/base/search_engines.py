"""The base class of the first stages over OpenSearch and Elasticsearch.

The two engines differ in their clients and in the form of a vector search.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.backends.base.addresses import Address, ServerProvider, api_key_for_server
from rerank.collections.base import Corpus
from rerank.errors import BackendError, UsageError
from rerank.retrieval.base.document_stores import (
    StoreHit,
    StoreOptions,
    StoreRetriever,
    StoreSearch,
    check_dimension,
    find_part,
    require_client,
)

if TYPE_CHECKING:
    from rerank.indexing.text_encoder import Encoder

#: Maximum number of documents that both engines return by default (index.max_result_window).
_DEEPEST = 10_000


@dataclass(frozen=True)
class SearchEngineOptions(StoreOptions):
    """The options of both search engines, in addition to those of `StoreOptions`."""

    #: Name of the first stage and of its extra.
    engine: ClassVar[str]
    #: Name of the client's Python package.
    package: ClassVar[str]
    #: Name of the property that contains the dimension of vectors in the mapping of a field.
    dimension: ClassVar[str]

    index: str  # name or alias of the index
    _: KW_ONLY
    id: str = ""  # field with the identifier; empty for the engine's own identifier, ``_id``
    #: Field with the vectors, for nearest-neighbour search; if empty, the words of the query are searched in the field
    #: named by ``text`` with BM25, whose statistics cover all shards.
    vector: str = ""

    def over(self, corpus: Corpus) -> StoreRetriever:
        """Return a retriever over the index after checking it; the model is loaded only if vectors are searched."""
        self.check_prerequisites()
        return self.retriever(self.encoder() if self.vector else None)

    def check_prerequisites(self) -> None:
        require_client(self.package, self.engine, model=bool(self.vector))

    def retriever(self, encoder: Encoder | None) -> StoreRetriever:
        """Check the index, and return a retriever that searches vectors, or words if ``encoder`` is None."""
        with self._connect() as client:
            self._check_index(client, encoder)

        @contextmanager
        def connect() -> Iterator[StoreSearch]:
            with self._connect() as client:

                def search(query: str, depth: int) -> list[StoreHit]:
                    body: dict[str, Any] = {"query": {"match": {self.text: query}}}
                    if encoder:
                        body = self.vector_query(encoder.queries([query])[0].tolist(), depth)
                    # scores of one index must be comparable, so term frequencies are counted over all of its shards
                    kind = {} if encoder else {"search_type": "dfs_query_then_fetch"}
                    body |= {"size": depth, "_source": self._fields()}
                    return self._hits(client.search(index=self.index, **self.search_arguments(body, kind)))

                yield search

        return StoreRetriever(self.engine, self._place, connect, _DEEPEST)

    @abstractmethod
    def vector_query(self, vector: list[float], depth: int) -> dict[str, Any]:
        """Return the part of a search request's body that finds the ``depth`` vectors nearest to ``vector``."""

    @abstractmethod
    def search_arguments(self, body: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
        """Convert a request body and URL parameters (``kind``) to arguments of the client's method ``search``."""

    @abstractmethod
    def open_client(self, address: str, **settings: Any) -> tuple[Any, tuple[type[Exception], ...]]:
        """Return a client for the server at an address, and the exception classes that the client raises.

        Args:
            settings: Settings, with the same keys for OpenSearch and Elasticsearch: ``api_key`` (None for no key),
                ``user`` (a pair of name and password; None for no user) and ``ca_certs`` (path of the certificates;
                None for the default).
        """

    @property
    def _place(self) -> str:
        return f"the index {self.index!r}"

    def _fields(self) -> list[str]:
        return [name for name in (self.id, self.text, self.title) if name]

    def _check_index(self, client: Any, encoder: Encoder | None) -> None:
        if not client.indices.exists(index=self.index):
            raise UsageError(
                f"There is no index {self.index!r} in {self.engine}", expected="the name or alias of an existing index"
            )
        for mapping in client.indices.get_mapping(index=self.index).values():  # an alias may refer to several indexes
            fields: Mapping[str, Any] = mapping["mappings"].get("properties", {})
            for name in self._fields():
                find_part("field", name, fields, self._place)
            if encoder:
                size = find_part("field", self.vector, fields, self._place).get(self.dimension)
                check_dimension(self._place, size, self.model, encoder.size)

    def _hits(self, answer: Any) -> list[StoreHit]:
        shards = answer.get("_shards", {})
        if answer.get("timed_out") or shards.get("failed"):
            raise BackendError(
                f"{shards.get('failed', 0)} of {shards.get('total', '?')} shards of {self._place} failed, or timed out",
                expected="the results of all shards",
                remedy="Check the server's health, and increase the option 'timeout'",
            )
        return [self._hit(hit["_id"], hit["_score"], hit.get("_source", {})) for hit in answer["hits"]["hits"]]

    def _hit(self, own_id: str, score: float, source: Mapping[str, Any]) -> StoreHit:
        return StoreHit(
            id=source.get(self.id) if self.id else own_id,
            text=source.get(self.text),
            title=source.get(self.title) if self.title else None,
            score=score,
        )

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        prefix = self.engine.upper()
        user, password = (os.environ.get(f"{prefix}_{name}", "") for name in ("USERNAME", "PASSWORD"))
        provider = ServerProvider(
            keys=(f"{prefix}_API_KEY",), url_variable=f"{prefix}_URL", setting=f"the variable {prefix}_URL"
        )
        address = Address.parse(provider=provider)
        if user and not address.private:
            raise UsageError(
                f"{prefix}_PASSWORD would be sent to {address.url} without encryption", expected="an address with https"
            )
        client, errors = self.open_client(
            address.url,
            api_key=api_key_for_server(address) or None,
            user=(user, password) if user else None,
            ca_certs=os.environ.get(f"{prefix}_CA_CERTS"),
        )
        try:
            yield client
        except errors as error:
            raise BackendError(
                f"{self.engine} failed: {str(error)[:300]}",
                remedy=f"Check {prefix}_URL, {prefix}_API_KEY or {prefix}_USERNAME, and that the server runs",
            ) from error
        finally:
            client.close()


@dataclass(frozen=True)
class Elasticsearch(SearchEngineOptions):
    """The options of retrieval from Elasticsearch, which are those of `SearchEngineOptions`.

    Environment variables set the address (``ELASTICSEARCH_URL``) and the credentials: ``ELASTICSEARCH_API_KEY``, or
    ``ELASTICSEARCH_USERNAME`` and ``ELASTICSEARCH_PASSWORD``. ``ELASTICSEARCH_CA_CERTS`` is the path of the certificate
    authorities for servers with a private certificate.
    """

    engine: ClassVar[str] = "elasticsearch"
    package: ClassVar[str] = "elasticsearch"
    dimension: ClassVar[str] = "dims"

    def vector_query(self, vector: list[float], depth: int) -> dict[str, Any]:
        """Return the section ``knn`` of a request body, with ``2 * depth`` candidates per shard (100 to 10,000)."""
        candidates = min(10_000, max(100, 2 * depth))
        return {"knn": {"field": self.vector, "query_vector": vector, "k": depth, "num_candidates": candidates}}

    def search_arguments(self, body: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
        return {("source" if name == "_source" else name): value for name, value in body.items()} | kind

    def open_client(self, address: str, **settings: Any) -> tuple[Any, tuple[type[Exception], ...]]:
        import elasticsearch

        options = {"api_key": settings["api_key"], "basic_auth": settings["user"], "ca_certs": settings["ca_certs"]}
        client = elasticsearch.Elasticsearch(
            address,
            request_timeout=self.timeout,
            max_retries=0,
            **{name: value for name, value in options.items() if value},
        )
        return client, (elasticsearch.ApiError, elasticsearch.TransportError)


@dataclass(frozen=True)
class Opensearch(SearchEngineOptions):
    """The options of retrieval from OpenSearch, which are those of `SearchEngineOptions`.

    Environment variables set the address (``OPENSEARCH_URL``) and the credentials: ``OPENSEARCH_API_KEY``, or
    ``OPENSEARCH_USERNAME`` and ``OPENSEARCH_PASSWORD``. ``OPENSEARCH_CA_CERTS`` is the path of the certificate
    authorities for servers with a private certificate.
    """

    engine: ClassVar[str] = "opensearch"
    package: ClassVar[str] = "opensearchpy"
    dimension: ClassVar[str] = "dimension"

    def vector_query(self, vector: list[float], depth: int) -> dict[str, Any]:
        return {"query": {"knn": {self.vector: {"vector": vector, "k": depth}}}}

    def search_arguments(self, body: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
        return {"body": body, "params": kind}

    def open_client(self, address: str, **settings: Any) -> tuple[Any, tuple[type[Exception], ...]]:
        import opensearchpy

        key = settings["api_key"]
        options = {
            "http_auth": settings["user"],
            "ca_certs": settings["ca_certs"],
            "headers": {"Authorization": f"ApiKey {key}"} if key else None,
        }
        client = opensearchpy.OpenSearch(
            address, timeout=self.timeout, max_retries=0, **{name: value for name, value in options.items() if value}
        )
        return client, (opensearchpy.OpenSearchException,)

"""First stages over Elasticsearch and OpenSearch, which differ in their clients and in the form of a vector search."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.backends.base.addresses import Address, ServerProvider, api_key_for_server
from rerank.errors import BackendError, ensure
from rerank.retrieval.base.document_stores import StoreHit, StoreOptions, check_dimension, find_part

if TYPE_CHECKING:
    from rerank.indexing.text_encoder import Encoder


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

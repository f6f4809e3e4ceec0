"""A first stage that searches an Elasticsearch index with the client of Elasticsearch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.retrieval.base.search_engines import SearchEngineOptions


@dataclass(frozen=True, slots=True)
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
        """Return the keys of the body and the URL parameters as arguments; ``_source`` is renamed to ``source``."""
        return {("source" if name == "_source" else name): value for name, value in body.items()} | kind

    def open_client(self, address: str, **settings: Any) -> tuple[Any, tuple[type[Exception], ...]]:
        """Return a client that does not retry failed requests, and the exception classes that it raises."""
        import elasticsearch

        options = {"api_key": settings["api_key"], "basic_auth": settings["user"], "ca_certs": settings["ca_certs"]}
        client = elasticsearch.Elasticsearch(
            address,
            request_timeout=self.timeout,
            max_retries=0,
            **{name: value for name, value in options.items() if value},
        )
        return client, (elasticsearch.ApiError, elasticsearch.TransportError)

"""A first stage that searches an OpenSearch index with the client of OpenSearch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.retrieval.base.search_engines import SearchEngineOptions


@dataclass(frozen=True, slots=True)
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
        """Return a query of the k-NN plug-in for the ``depth`` vectors nearest to ``vector``."""
        return {"query": {"knn": {self.vector: {"vector": vector, "k": depth}}}}

    def search_arguments(self, body: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
        """Return the request body and the URL parameters as the arguments ``body`` and ``params``."""
        return {"body": body, "params": kind}

    def open_client(self, address: str, **settings: Any) -> tuple[Any, tuple[type[Exception], ...]]:
        """Return a client that does not retry failed requests, and the exception class that it raises."""
        import opensearchpy

        key = settings["api_key"]
        options = {
            "http_auth": settings["user"],
            "ca_certs": settings["ca_certs"],
            "headers": {"Authorization": f"ApiKey {key}"} if key else None,
        }
        client = opensearchpy.OpenSearch(
            address,
            timeout=self.timeout,
            max_retries=0,
            **{name: value for name, value in options.items() if value},
        )
        return client, (opensearchpy.OpenSearchException,)

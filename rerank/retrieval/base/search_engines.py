"""First stages over OpenSearch and Elasticsearch, which differ in their clients and in the form of a vector search."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.backends.base.server_address import Address, ServerProvider, api_key_for_server
from rerank.collections.base.corpus import Corpus
from rerank.errors import BackendError, UsageError
from rerank.retrieval.base.document_stores import (
    StoreHit,
    StoreOptions,
    StoreRetriever,
    StoreSearch,
    check_store_dimension,
    named_store_part,
    require_store_client,
)

if TYPE_CHECKING:
    from rerank.indexing.text_encoder import Encoder

#: Largest result that both engines return by default (index.max_result_window).
_DEEPEST = 10_000


@dataclass(frozen=True, slots=True)
class SearchEngineOptions(StoreOptions):
    """The options of both search engines, in addition to those of `StoreOptions`.

    Attributes:
        index: The index or its alias.
        id: Field with the identifier; empty for the engine's own, ``_id``.
        vector: Field with the vector, for a search of nearest vectors; empty for a search of the words of the query
            in the field ``text``, with BM25 and the counts of all shards.
    """

    #: Name of the first stage, of its extra and of the client's package.
    engine: ClassVar[str]
    package: ClassVar[str]
    #: Name of the mapping's property with the dimension of vectors.
    dimension: ClassVar[str]

    index: str
    _: KW_ONLY
    id: str = ""
    vector: str = ""

    def over(self, corpus: Corpus) -> StoreRetriever:
        """Load the model if vectors are searched, and check the index.

        Raises:
            MissingPrerequisiteError: An extra is not installed.
            UsageError: The index or a field does not exist, or vectors have another dimension than the model's.
            BackendError: The server cannot be reached, or does not answer in time.
        """
        self.check_prerequisites()
        return self.retriever(self.encoder() if self.vector else None)

    def check_prerequisites(self) -> None:
        """Check that the client is installed, and sentence-transformers if vectors are searched."""
        require_store_client(self.package, self.engine, model=bool(self.vector))

    def retriever(self, encoder: Encoder | None) -> StoreRetriever:
        """Check the index, and return a retriever with an encoder of queries; None to search words."""
        with self._connect() as client:
            self._check_index(client, encoder)

        @contextmanager
        def connect() -> Iterator[StoreSearch]:
            with self._connect() as client:

                def search(query: str, depth: int) -> list[StoreHit]:
                    body: dict[str, Any] = {"query": {"match": {self.text: query}}}
                    if encoder:
                        body = self.vector_query(encoder.queries([query])[0].tolist(), depth)
                    # documents of one index must be comparable, so frequencies are counted over its shards
                    kind = {} if encoder else {"search_type": "dfs_query_then_fetch"}
                    body |= {"size": depth, "_source": self._fields()}
                    return self._hits(client.search(index=self.index, **self.search_arguments(body, kind)))

                yield search

        return StoreRetriever(self.engine, self._place, connect, _DEEPEST)

    @abstractmethod
    def vector_query(self, vector: list[float], depth: int) -> dict[str, Any]:
        """Return the part of a search body that finds the nearest vectors."""

    @abstractmethod
    def search_arguments(self, body: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
        """Return the arguments of the client's ``search`` for a body and parameters of the URL."""

    @abstractmethod
    def open_client(self, address: str, **settings: Any) -> tuple[Any, tuple[type[Exception], ...]]:
        """Return a client of the server at an address, and the classes of its errors.

        Args:
            address: The base URL.
            settings: Of both clients: ``api_key`` or None, ``user`` (name and password) or None, and ``ca_certs``.
        """

    @property
    def _place(self) -> str:
        return f"the index {self.index!r}"

    def _fields(self) -> list[str]:
        return [name for name in (self.id, self.text, self.title) if name]

    def _check_index(self, client: Any, encoder: Encoder | None) -> None:
        if not client.indices.exists(index=self.index):
            raise UsageError(f"There is no index {self.index!r} in {self.engine}", expected="an index or an alias")
        for mapping in client.indices.get_mapping(index=self.index).values():  # an alias may have several indexes
            fields: Mapping[str, Any] = mapping["mappings"].get("properties", {})
            for name in self._fields():
                named_store_part("field", name, fields, self._place)
            if encoder:
                size = named_store_part("field", self.vector, fields, self._place).get(self.dimension)
                check_store_dimension(self._place, size, self.model, encoder.size)

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

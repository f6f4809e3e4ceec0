"""A first stage that searches a Qdrant collection, on a server or, in local mode, in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.backends.base.addresses import Address, ServerProvider, api_key_for_server
from rerank.errors import BackendError, MissingResourceError
from rerank.retrieval.base.document_stores import StoreHit, StoreOptions, check_dimension, find_part

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

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

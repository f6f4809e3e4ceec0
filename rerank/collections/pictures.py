"""Provider of collections of picture files in a folder, with optional queries and judgments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from rerank.collections.base.files import (
    CollectionFiles,
    FileCollection,
    collection_name_of_path,
    require_collection_folder,
    require_collection_path,
)
from rerank.errors import DataError
from rerank.io.json_records import read_json_lines_query_file
from rerank.io.pictures import picture_hash
from rerank.types import Document, Query

#: Extensions of picture files, in lower case; extensions in upper case are accepted, too.
ENDINGS = frozenset((".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
#: Characters that are escaped in ids: whitespace, which run files cannot contain, and the escape character.
_NOT_IN_IDS = re.compile(r"[\s%]")


class Pictures(FileCollection):
    """The picture files of a folder and its sub-folders, one document each: jpg, png, webp, gif, tif, bmp, avif.

    The id of a document is the path of its file within the folder, with whitespace and ``%`` percent-encoded. Files
    and folders whose names begin with a dot are omitted. Pictures are not decoded.

    Args:
        folder: The folder.
        queries: A file of queries as JSON lines, ``{"id": ..., "text": ...}``; empty for no queries.
        qrels: A file of judgments, in any supported format; empty for no judgments.
        relevant: Lowest grade that binary measures count as relevant.
    """

    def __init__(self, folder: str, *, queries: str = "", qrels: str = "", relevant: int = 1) -> None:
        """Locate the files without reading them."""
        self._folder = require_collection_folder(folder, "a folder of pictures").resolve()
        files = CollectionFiles(
            queries=(require_collection_path(queries, "a file of queries"),) if queries else (),
            qrels=(require_collection_path(qrels, "a file of judgments"),) if qrels else (),
        )
        super().__init__(collection_name_of_path(self._folder), files, language="en", relevant=relevant)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the folder's path and the pictures' ids and bytes; every picture is read once."""
        whole = hashlib.sha256(f"Pictures {self._folder}".encode("utf-8", "surrogatepass"))
        for doc in self.docs():
            whole.update(f"{doc.id}\0{picture_hash(doc.image)}\n".encode("utf-8", "surrogatepass"))
        return whole.hexdigest()

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the pictures as documents, sorted by path."""
        pictures = sorted(path for path in self._folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        shown = [path for path in pictures if not any(p.startswith(".") for p in path.relative_to(self._folder).parts)]
        if not shown:
            raise DataError(
                f"{self._folder} contains no pictures", expected=f"files that end in {', '.join(sorted(ENDINGS))}"
            )
        return (
            Document(id=_picture_collection_document_id(path.relative_to(self._folder)), image=str(path))
            for path in shown
        )

    def queries(self) -> list[Query]:
        """Return all queries in file order; empty if no file of queries is given."""
        return read_json_lines_query_file(self.files.queries[0]) if self.files.queries else []


def _picture_collection_document_id(path: Path) -> str:
    return _NOT_IN_IDS.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8")), path.as_posix())

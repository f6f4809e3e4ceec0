"""Collections of pictures: a folder of files, and perhaps queries and judgments. Opens no picture."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from rerank.collections.base.files import FileCollection, Files, existing, existing_folder, stem
from rerank.errors import DataError
from rerank.io.json_records import read_queries
from rerank.io.pictures import picture_hash
from rerank.types import Document, Query

#: Endings of files that are taken for pictures, whatever their case.
ENDINGS = frozenset((".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
#: What may not stand in an id, as a run file could not hold it; and what stands for it.
_NOT_IN_IDS = re.compile(r"[\s%]")


class Pictures(FileCollection):
    """The picture files of a folder and of the folders in it, each a document: jpg, png, webp, gif, tif, bmp, avif.

    A document's id is the path of its file within the folder; white space and ``%`` in it are written as ``%20`` and
    the like. Files whose names begin with a dot are left out, and so are folders.

    Args:
        folder: The folder.
        queries: A file of queries as JSON lines: ``{"id": ..., "text": ...}``.
        qrels: A file of judgments, in any form that is read.
        relevant: The lowest grade that binary measures count as relevant.

    Raises:
        MissingResourceError: The folder, or a file, is not there.
    """

    def __init__(self, folder: str, *, queries: str = "", qrels: str = "", relevant: int = 1) -> None:
        """Find the files; nothing is read yet."""
        self._folder = existing_folder(folder, "one with pictures").resolve()
        files = Files(
            queries=(existing(queries, "a file of queries"),) if queries else (),
            qrels=(existing(qrels, "a file of judgments"),) if qrels else (),
        )
        super().__init__(stem(self._folder), files, language="en", relevant=relevant)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the folder's path and of the pictures' ids and bytes; reads all of them, once."""
        whole = hashlib.sha256(f"Pictures {self._folder}".encode("utf-8", "surrogatepass"))
        for doc in self.docs():
            whole.update(f"{doc.id}\0{picture_hash(doc.image)}\n".encode("utf-8", "surrogatepass"))
        return whole.hexdigest()

    def docs(self) -> Iterator[Document]:
        """The pictures, by path.

        Raises:
            DataError: The folder has none.
        """
        found = sorted(path for path in self._folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        shown = [path for path in found if not any(p.startswith(".") for p in path.relative_to(self._folder).parts)]
        if not shown:
            raise DataError(
                f"{self._folder} has no pictures", expected=f"files that end in {', '.join(sorted(ENDINGS))}"
            )
        return (Document(id=_id(path.relative_to(self._folder)), image=str(path)) for path in shown)

    def queries(self) -> list[Query]:
        """All queries in file order; none without a file of them."""
        return read_queries(self.files.queries[0]) if self.files.queries else []


def _id(path: Path) -> str:
    return _NOT_IN_IDS.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8")), path.as_posix())

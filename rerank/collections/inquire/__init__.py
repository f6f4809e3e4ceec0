"""INQUIRE (Vendrow et al., NeurIPS 2024 Datasets and Benchmarks): text queries over images of iNaturalist 2024.

The text side: queries with their categories, which images are relevant, and the images' ids and paths. Opens no image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Literal

from rerank.collections.base.files import FileCollection, Files, existing, existing_folder, locate, require
from rerank.collections.inquire.files import FIELDS, by_field, picture, read_csv
from rerank.errors import DataError, MissingResourceError
from rerank.io.json_records import Record, once
from rerank.types import Document, Qrels, Query

_INNER = "data/inquire"
_KIND = "folder of INQUIRE"
_IMAGE = ("image_id", "image_path")


class Inquire(FileCollection):
    """A folder with INQUIRE's inquire_queries_SPLIT.csv and inquire_annotations.csv: ranking all images.

    The files, plain or gzipped, lie in the folder or in ``data/inquire`` in it. A document is an image and has no text:
    the folders of its path name its species, which no judge is to read. The annotations name the relevant images
    alone, each with grade 1; an image that is not named is not relevant. Without ``images`` the documents are the
    annotated images, which is enough to score runs and too few to rank: the benchmark's corpus has five million.

    Args:
        folder: The folder.
        split: ``test`` or ``val``.
        images: A CSV file of all images, with the columns image_id and image_path, in place of the annotated ones.
        root: The folder that the images' paths start from; the present one if left out.

    Raises:
        MissingResourceError: The folder, or a file, is not there.
    """

    def __init__(
        self, folder: str, *, split: Literal["test", "val"] = "test", images: str = "", root: str = ""
    ) -> None:
        """Find the files; nothing is read yet."""
        where = existing_folder(folder, "INQUIRE's files")
        names = [f"inquire_queries_{split}.csv"]
        where = where if locate(where, names) or not (where / _INNER).is_dir() else where / _INNER
        qrels = locate(where, ["inquire_annotations.csv"])
        if not (qrels or images):
            raise MissingResourceError(f"{where} has no inquire_annotations.csv", remedy="Add it, or the option images")
        listed = existing(images, "a CSV file of images") if images else qrels
        files = Files(
            docs=(listed,) if listed else (),
            queries=(require(where, names, _KIND),),
            qrels=(qrels,) if qrels else (),
        )
        self._root = existing_folder(root, "the images").resolve() if root else None
        super().__init__(f"inquire-{split}", files, language="en", relevant=1)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the list of images and where they lie, which is what an index is built from."""
        root = str(self._root.resolve()) if self._root else ""
        return Files(docs=self.files.docs).digest({"format": type(self).__name__, "root": root})

    def docs(self) -> Iterator[Document]:
        """Stream the images, each once: a list of all has them once, the annotations for each query anew.

        Raises:
            DataError: A list of all has an image twice, or an image has two paths.
        """
        found = ((record.where, self._image(record)) for record in read_csv(self.files.docs[0], _IMAGE))
        return once(found, "image") if self.files.docs != self.files.qrels else _first(found)

    def queries(self) -> list[Query]:
        """All queries of the split, in file order."""
        return list(once(((record.where, _query(record)) for record in self._rows()), "query"))

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Supercategory, category and iconic_group, each as query id -> value."""
        return by_field({_query(record).id: {name: record.fields[name] for name in FIELDS} for record in self._rows()})

    def _image(self, record: Record) -> Document:
        return picture(record.identifier(_IMAGE[:1], "image"), record.text(_IMAGE[1:]), self._root)

    def _rows(self) -> Iterator[Record]:
        return read_csv(self.files.queries[0], ("query_id", "query_text", *FIELDS))

    @cached_property
    def _judged(self) -> Qrels:
        """Those of the split's queries: one file holds the annotations of all splits."""
        table: dict[str, dict[str, int]] = {query.id: {} for query in self.queries()} if self.files.qrels else {}
        for path in self.files.qrels:
            for record in read_csv(path, ("query_id", "image_id")):
                query = record.identifier(("query_id",), "query")
                if query in table:
                    table[query][record.identifier(("image_id",), "image")] = 1
        return Qrels({query: judged for query, judged in table.items() if judged}, name=f"{self.name} annotations")


def _first(found: Iterable[tuple[str, Document]]) -> Iterator[Document]:
    seen: dict[str, Document] = {}
    for where, doc in found:
        if doc.id not in seen:
            seen[doc.id] = doc
            yield doc
        elif seen[doc.id] != doc:
            raise DataError(
                f"{where}: image {doc.id} is {doc.image} here and {seen[doc.id].image} above",
                expected="one path for each",
            )


def _query(record: Record) -> Query:
    words = " ".join(record.text(("query_text",)).split())
    return Query(id=record.identifier(("query_id",), "query"), text=words)

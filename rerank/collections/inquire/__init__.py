"""Provider of INQUIRE (Vendrow et al., NeurIPS 2024 Datasets and Benchmarks), text queries for images of iNaturalist.

The images are those of iNaturalist 2024. The collection consists of queries with their categories, relevance judgments,
and the ids and paths of the images. The images are not opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import ClassVar, Literal

from rerank.collections.base.files import (
    CollectionFiles,
    FileCollection,
    find_collection_file,
    require_collection_file,
    require_collection_folder,
    require_collection_path,
)
from rerank.collections.inquire.files import FIELDS, inquire_image_document, invert_query_fields, read_inquire_csv
from rerank.errors import DataError, MissingResourceError
from rerank.io.json_records import JsonRecord, check_unique_ids
from rerank.types import Document, Qrels, Query

_INNER = "data/inquire"
_KIND = "folder of INQUIRE"
_IMAGE = ("image_id", "image_path")


class Inquire(FileCollection):
    """A folder with INQUIRE's inquire_queries_SPLIT.csv and inquire_annotations.csv; the task is to rank all images.

    The files, plain or gzipped, are in the folder or in its sub-folder ``data/inquire``. A document is an image without
    text. Its path is not used as text, because it contains the species, which judges must not see. The annotations list
    only the relevant images, with grade 1; all others are not relevant. Without ``images``, the documents are the
    annotated images. These suffice to score runs but not to rank, since the benchmark's corpus has five million images.

    Args:
        folder: The folder.
        split: ``test`` or ``val``.
        images: A CSV file of all images, with the columns image_id and image_path; empty for the annotated images.
        root: The folder to which image paths are relative; empty for the current folder.
    """

    format_name: ClassVar[str] = "Inquire"

    def __init__(
        self, folder: str, *, split: Literal["test", "val"] = "test", images: str = "", root: str = ""
    ) -> None:
        """Locate the files without reading them."""
        where = require_collection_folder(folder, "INQUIRE's files")
        names = [f"inquire_queries_{split}.csv"]
        where = where if find_collection_file(where, names) or not (where / _INNER).is_dir() else where / _INNER
        qrels = find_collection_file(where, ["inquire_annotations.csv"])
        if not (qrels or images):
            raise MissingResourceError(
                f"{where} has no inquire_annotations.csv", remedy="Add this file, or set the option images"
            )
        listed = require_collection_path(images, "a CSV file of images") if images else qrels
        files = CollectionFiles(
            docs=(listed,) if listed else (),
            queries=(require_collection_file(where, names, _KIND),),
            qrels=(qrels,) if qrels else (),
        )
        self._root = require_collection_folder(root, "the images").resolve() if root else None
        super().__init__(f"inquire-{split}", files, language="en", relevant=1)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the list of images and the path of their root folder, on which an index depends."""
        root = str(self._root.resolve()) if self._root else ""
        return CollectionFiles(docs=self.files.docs).digest({"format": self.format_name, "root": root})

    def docs(self) -> Iterator[Document]:
        """Yield the images as documents, each once, although the annotations list an image once per query."""
        images = ((record.where, self._image(record)) for record in read_inquire_csv(self.files.docs[0], _IMAGE))
        return (
            check_unique_ids(images, "image")
            if self.files.docs != self.files.qrels
            else _deduplicate_inquire_images(images)
        )

    def queries(self) -> list[Query]:
        """Return all queries of the split, in file order."""
        return list(
            check_unique_ids(((record.where, _parse_inquire_query(record)) for record in self._rows()), "query")
        )

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Return the fields supercategory, category and iconic_group as a mapping field -> query id -> value."""
        return invert_query_fields(
            {_parse_inquire_query(record).id: {name: record.fields[name] for name in FIELDS} for record in self._rows()}
        )

    def _image(self, record: JsonRecord) -> Document:
        return inquire_image_document(record.identifier(_IMAGE[:1], "image"), record.text(_IMAGE[1:]), self._root)

    def _rows(self) -> Iterator[JsonRecord]:
        return read_inquire_csv(self.files.queries[0], ("query_id", "query_text", *FIELDS))

    @cached_property
    def _judged(self) -> Qrels:
        """The judgments of the split's queries, selected from the annotations of all splits."""
        table: dict[str, dict[str, int]] = {query.id: {} for query in self.queries()} if self.files.qrels else {}
        for path in self.files.qrels:
            for record in read_inquire_csv(path, ("query_id", "image_id")):
                query = record.identifier(("query_id",), "query")
                if query in table:
                    table[query][record.identifier(("image_id",), "image")] = 1
        return Qrels({query: judged for query, judged in table.items() if judged}, name=f"{self.name} annotations")


def _deduplicate_inquire_images(images: Iterable[tuple[str, Document]]) -> Iterator[Document]:
    seen: dict[str, Document] = {}
    for where, doc in images:
        if doc.id not in seen:
            seen[doc.id] = doc
            yield doc
        elif seen[doc.id] != doc:
            raise DataError(
                f"{where}: image {doc.id} has the path {doc.image}, but {seen[doc.id].image} in an earlier line",
                expected="one path for each image",
            )


def _parse_inquire_query(record: JsonRecord) -> Query:
    words = " ".join(record.text(("query_text",)).split())
    return Query(id=record.identifier(("query_id",), "query"), text=words)

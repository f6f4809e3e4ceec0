"""Providers of INQUIRE (Vendrow et al., NeurIPS 2024 Datasets and Benchmarks), text queries for images of iNaturalist.

The images are those of iNaturalist 2024. The collections consist of queries with their categories, relevance judgments,
and the ids and paths of the images. The images are not opened.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from rerank.collections.base import (
    CollectionFiles,
    FileCollection,
    find_file,
    name_of_path,
    optional_path,
    require_file,
    require_path,
)
from rerank.errors import DataError, MissingResourceError, error_repr
from rerank.io.json_records import JsonRecord, check_unique_ids, read_json_lines
from rerank.io.text_files import open_text_file
from rerank.types import Document, Qrels, Query, Ranking, Run

#: Names of the fields of INQUIRE's queries.
_FIELDS = ("supercategory", "category", "iconic_group")
_INNER = "data/inquire"


class Inquire(FileCollection):
    """A folder with INQUIRE's inquire_queries_SPLIT.csv and inquire_annotations.csv; the task is to rank all images.

    The files, plain or gzipped, are in the folder or in its sub-folder ``data/inquire``. A document is an image without
    text. Its path is not used as text, because it contains the species, which judges must not see. The annotations list
    only the relevant images, with grade 1; all others are not relevant. Without ``images``, the documents are the
    annotated images. These suffice to score runs but not to rank, since the benchmark's corpus has five million images.
    ``images`` is a CSV file of all images, with the columns image_id and image_path; ``root`` is the folder to which
    these paths are relative, by default the current folder.
    """

    format_name: ClassVar[str] = "Inquire"

    def __init__(
        self, folder: str, *, split: Literal["test", "val"] = "test", images: str = "", root: str = ""
    ) -> None:
        where = require_path(folder, "INQUIRE's files", folder=True)
        names = [f"inquire_queries_{split}.csv"]
        where = where if find_file(where, names) or not (where / _INNER).is_dir() else where / _INNER
        qrels = find_file(where, ["inquire_annotations.csv"])
        if not (qrels or images):
            raise MissingResourceError(
                f"{where} has no inquire_annotations.csv", remedy="Add this file, or set the option images"
            )
        annotations = (qrels,) if qrels else ()
        files = CollectionFiles(
            docs=optional_path(images, "a CSV file of images") or annotations,
            queries=(require_file(where, names, "folder of INQUIRE"),),
            qrels=annotations,
        )
        self._root = require_path(root, "the images", folder=True).resolve() if root else None
        super().__init__(f"inquire-{split}", files)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the list of images and the path of their root folder, on which an index depends."""
        root = str(self._root.resolve()) if self._root else ""
        return CollectionFiles(docs=self.files.docs).digest({"format": self.format_name, "root": root})

    def docs(self) -> Iterator[Document]:
        """Yield the images as documents, each once, although the annotations list an image once per query."""
        images = (
            (record.where, _image(record.identifier(("image_id",), "image"), record.text(("image_path",)), self._root))
            for record in _read_csv(self.files.docs[0], ("image_id", "image_path"))
        )
        return _unique(images) if self.files.docs == self.files.qrels else check_unique_ids(images, "image")

    def queries(self) -> list[Query]:
        return list(check_unique_ids(((where, query) for where, query, _ in self._rows()), "query"))

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        return _invert({query.id: fields for _, query, fields in self._rows()})

    def _rows(self) -> Iterator[tuple[str, Query, dict[str, str]]]:
        for record in _read_csv(self.files.queries[0], ("query_id", "query_text", *_FIELDS)):
            words = " ".join(record.text(("query_text",)).split())
            query = Query(id=record.identifier(("query_id",), "query"), text=words)
            yield record.where, query, {name: record.fields[name] for name in _FIELDS}

    @cached_property
    def _judged(self) -> Qrels:
        """The judgments of the split's queries, selected from the annotations of all splits."""
        table: dict[str, dict[str, int]] = {query.id: {} for query in self.queries()} if self.files.qrels else {}
        for path in self.files.qrels:
            for record in _read_csv(path, ("query_id", "image_id")):
                query = record.identifier(("query_id",), "query")
                if query in table:
                    table[query][record.identifier(("image_id",), "image")] = 1
        return Qrels({query: judged for query, judged in table.items() if judged}, name=f"{self.name} annotations")


def _unique(images: Iterable[tuple[str, Document]]) -> Iterator[Document]:
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


@dataclass(frozen=True, slots=True)
class _QueryRows:
    """A query with its fields and its images."""

    query: Query
    fields: Mapping[str, str]  # mapping from field name to value
    #: Mapping from image id to a tuple of document, CLIP score and relevance (0 or 1).
    images: dict[str, tuple[Document, float, int]] = field(default_factory=dict)


class InquireRerank(FileCollection):
    """A file of INQUIRE-Rerank's rows as JSON lines, with query, relevance, CLIP score, image and categories.

    The rows of one split have the fields query, relevant, clip_score, inat24_image_id, inat24_file_name, supercategory,
    category and iconic_group, but not the bytes of the images. They are grouped by query text; query ids are numbers in
    file order, from 1. Candidate lists are sorted by clip_score, the first-stage score. As in `Inquire`, documents are
    images without text, with paths relative to ``root``. Every image in a list is judged as relevant (1) or not (0).
    """

    format_name: ClassVar[str] = "InquireRerank"

    def __init__(self, file: str, *, root: str = "") -> None:
        path = require_path(file, "a file of INQUIRE-Rerank's rows")
        self._root = require_path(root, "the images", folder=True).resolve() if root else None
        super().__init__(name_of_path(path), CollectionFiles(docs=(path,)))

    @property
    def selecting(self) -> Mapping[str, str]:
        return {"root": str(self._root.resolve()) if self._root else ""}

    def docs(self) -> Iterator[Document]:
        seen: dict[str, Document] = {}
        for group in self._groups:
            for doc, _, _ in group.images.values():
                if seen.setdefault(doc.id, doc) != doc:
                    raise DataError(
                        f"Image {doc.id} has the path {doc.image} in query {group.query.text!r}, "
                        f"but {seen[doc.id].image} in an earlier query",
                        expected="one path for each image",
                    )
        return iter(seen.values())

    def queries(self) -> list[Query]:
        return [group.query for group in self._groups]

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        return _invert({group.query.id: group.fields for group in self._groups})

    def candidates(self) -> Run:
        rankings = (
            Ranking.from_scores(group.query, ((doc, score) for doc, score, _ in group.images.values()))
            for group in self._groups
        )
        return Run(rankings, name=self.name)

    @cached_property
    def _judged(self) -> Qrels:
        table = {a.query.id: {image: relevant for image, (_, _, relevant) in a.images.items()} for a in self._groups}
        return Qrels(table, name=str(self.files.docs[0]))

    @cached_property
    def _groups(self) -> list[_QueryRows]:
        """The rows grouped by query; the file, which has a few thousand rows, is read once."""
        table: dict[str, _QueryRows] = {}
        for record in read_json_lines(self.files.docs[0]):
            words = " ".join(record.text(("query",)).split())
            fields = {name: str(record.fields.get(name) or "") for name in _FIELDS}
            group = table.setdefault(words, _QueryRows(Query(id=str(len(table) + 1), text=words), fields))
            if group.fields != fields:
                raise DataError(
                    f"{record.where}: query {words!r} has other categories than in earlier rows",
                    expected="the same categories",
                )
            image = record.identifier(("inat24_image_id",), "image")
            if image in group.images:
                raise DataError(
                    f"{record.where}: duplicate image {image} in query {words!r}", expected="each image once per query"
                )
            score, relevant = record.fields.get("clip_score"), record.fields.get("relevant")
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise DataError(f"{record.where}: clip_score is {error_repr(score)}", expected="a finite number")
            if relevant not in (0, 1):
                raise DataError(
                    f"{record.where}: relevant is {error_repr(relevant)}", expected="0 or 1, or false or true"
                )
            doc = _image(image, record.text(("inat24_file_name",)), self._root)
            group.images[image] = (doc, float(score), int(relevant))
        return list(table.values())


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[JsonRecord]:
    """Yield the rows of a CSV file, each as a record that maps column names to texts."""
    with open_text_file(path) as stream:
        rows = csv.reader(stream, strict=True)
        try:
            head = next(rows, [])
            if lacking := [name for name in columns if name not in head]:
                raise DataError(
                    f"{path} has the columns {', '.join(map(repr, head)) or '(none)'}",
                    expected=f"at least {', '.join(columns)} (missing: {', '.join(lacking)})",
                )
            for row in rows:
                if not row:
                    continue
                where = f"{path}:{rows.line_num}"
                if len(row) != len(head):
                    raise DataError(
                        f"{where}: the row has {len(row)} columns", expected=f"{len(head)}, as in the first line"
                    )
                yield JsonRecord(where, dict(zip(head, row, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: invalid CSV ({error})", remedy="Repair the file") from error


def _image(image: str, path: str, root: Path | None) -> Document:
    """Return an image as a document with its id and the path of its file, to which ``root``, if given, is prepended."""
    return Document(id=image, image=str(root / path) if root else path)


def _invert(queries: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Convert a mapping query id -> field -> value to field -> query id -> value, without empty values."""
    return {
        field: {query: values[field] for query, values in queries.items() if values.get(field)} for field in _FIELDS
    }

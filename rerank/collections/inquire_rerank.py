"""Provider of INQUIRE-Rerank, with a hundred judged images per query, retrieved with CLIP. Images are not opened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from rerank.collections.base.files import (
    CollectionFiles,
    FileCollection,
    collection_name_of_path,
    require_collection_folder,
    require_collection_path,
)
from rerank.collections.inquire.files import FIELDS, inquire_image_document, invert_query_fields
from rerank.errors import DataError, error_repr
from rerank.io.json_records import JsonRecord, read_json_lines
from rerank.types import Document, Qrels, Query, Ranking, Run

_IMAGE, _PATH = ("inat24_image_id",), ("inat24_file_name",)


@dataclass(frozen=True, slots=True)
class _QueryRows:
    """A query with its fields and its images.

    Attributes:
        query: The query.
        fields: Mapping from field name to value.
        images: Mapping from image id to a tuple of document, CLIP score and relevance (0 or 1).
    """

    query: Query
    fields: Mapping[str, str]
    images: dict[str, tuple[Document, float, int]] = field(default_factory=dict)


class InquireRerank(FileCollection):
    """A file of INQUIRE-Rerank's rows as JSON lines, with query, relevance, CLIP score, image and categories.

    The fields are query, relevant, clip_score, inat24_image_id, inat24_file_name, supercategory, category and
    iconic_group.

    Rows are grouped by query text; query ids are numbers in file order, from 1. Candidate lists are sorted by
    clip_score, the first-stage score. A document is an image without text. Its path is not used as text, because it
    contains the species, which judges must not see. Every image in a list is judged as relevant (1) or not (0).

    Args:
        file: The rows of one split, plain or gzipped, without the bytes of the images.
        root: The folder to which image paths are relative; empty for the current folder.
    """

    format_name: ClassVar[str] = "InquireRerank"

    def __init__(self, file: str, *, root: str = "") -> None:
        """Locate the file without reading it."""
        path = require_collection_path(file, "a file of INQUIRE-Rerank's rows")
        self._root = require_collection_folder(root, "the images").resolve() if root else None
        super().__init__(collection_name_of_path(path), CollectionFiles(docs=(path,)), language="en", relevant=1)

    @property
    def selecting(self) -> Mapping[str, str]:
        """Mapping with the option ``root``, which determines the image paths of the documents."""
        return {"root": str(self._root.resolve()) if self._root else ""}

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the images of all lists, each once, in order of first occurrence."""
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
        """Return all queries, in order of first occurrence."""
        return [group.query for group in self._groups]

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Return the fields supercategory, category and iconic_group as a mapping field -> query id -> value."""
        return invert_query_fields({group.query.id: group.fields for group in self._groups})

    def candidates(self) -> Run:
        """Return the candidate lists, sorted by clip_score, descending."""
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
            fields = {name: str(record.fields.get(name) or "") for name in FIELDS}
            group = table.setdefault(words, _QueryRows(Query(id=str(len(table) + 1), text=words), fields))
            if group.fields != fields:
                raise DataError(
                    f"{record.where}: query {words!r} has other categories than in earlier rows",
                    expected="the same categories",
                )
            image = record.identifier(_IMAGE, "image")
            if image in group.images:
                raise DataError(
                    f"{record.where}: duplicate image {image} in query {words!r}", expected="each image once per query"
                )
            group.images[image] = (
                inquire_image_document(image, record.text(_PATH), self._root),
                _parse_inquire_clip_score(record),
                _parse_relevant_flag(record),
            )
        return list(table.values())


def _parse_inquire_clip_score(record: JsonRecord) -> float:
    value = record.fields.get("clip_score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{record.where}: clip_score is {error_repr(value)}", expected="a finite number")
    return float(value)


def _parse_relevant_flag(record: JsonRecord) -> int:
    value = record.fields.get("relevant")
    if value not in (0, 1):
        raise DataError(f"{record.where}: relevant is {error_repr(value)}", expected="0 or 1, or false or true")
    return int(value)

"""INQUIRE-Rerank: a hundred images a query, found by CLIP, each known to be relevant or not. No image is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rerank.collections.base.files import FileCollection, Files, existing, existing_folder, stem
from rerank.collections.inquire.files import FIELDS, by_field, picture
from rerank.errors import DataError, shorten
from rerank.io.json_records import Record, read_lines
from rerank.types import Document, Qrels, Query, Ranking, Run

_IMAGE, _PATH = ("inat24_image_id",), ("inat24_file_name",)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One query: its own fields, and what was found for it."""

    query: Query
    fields: Mapping[str, str]
    found: dict[str, tuple[Document, float, int]] = field(default_factory=dict)


class InquireRerank(FileCollection):
    """Rows of INQUIRE-Rerank as JSON lines: query, relevant, clip_score, inat24_image_id, inat24_file_name, categories.

    Rows belong together by the words of their query, which have no ids there: a query's id is its number in the file,
    from 1. Its list is sorted by clip_score, the first-stage score. A document is an image and has no text: its path
    names its species, which no judge is to read. Every image of a list is judged, 1 or 0.

    Args:
        file: The rows of one split, plain or gzipped, without the images' bytes.
        root: The folder that the images' paths start from; the present one if left out.

    Raises:
        MissingResourceError: The file is not there.
    """

    def __init__(self, file: str, *, root: str = "") -> None:
        """Find the file; nothing is read yet."""
        path = existing(file, "a file of INQUIRE-Rerank's rows")
        self._root = existing_folder(root, "the images").resolve() if root else None
        super().__init__(stem(path), Files(docs=(path,)), language="en", relevant=1)

    @property
    def selecting(self) -> Mapping[str, str]:
        """Where the images lie."""
        return {"root": str(self._root.resolve()) if self._root else ""}

    def docs(self) -> Iterator[Document]:
        """The images of all lists, each once, in the order in which they come first.

        Raises:
            DataError: An image has two paths, or the file is wrong.
        """
        seen: dict[str, Document] = {}
        for asked in self._asked:
            for doc, _, _ in asked.found.values():
                if seen.setdefault(doc.id, doc) != doc:
                    raise DataError(
                        f"Image {doc.id} is {doc.image} in query {asked.query.text!r} and {seen[doc.id].image} above",
                        expected="one path for each",
                    )
        return iter(seen.values())

    def queries(self) -> list[Query]:
        """All queries, in the order in which they come first."""
        return [asked.query for asked in self._asked]

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Supercategory, category and iconic_group, each as query id -> value."""
        return by_field({asked.query.id: asked.fields for asked in self._asked})

    def candidates(self) -> Run:
        """The lists, sorted by clip_score."""
        rankings = (
            Ranking.from_scores(asked.query, ((doc, score) for doc, score, _ in asked.found.values()))
            for asked in self._asked
        )
        return Run(rankings, name=self.name)

    @cached_property
    def _judged(self) -> Qrels:
        table = {a.query.id: {image: relevant for image, (_, _, relevant) in a.found.items()} for a in self._asked}
        return Qrels(table, name=str(self.files.docs[0]))

    @cached_property
    def _asked(self) -> list[_Asked]:
        """Read once: some thousands of rows."""
        table: dict[str, _Asked] = {}
        for record in read_lines(self.files.docs[0]):
            words = " ".join(record.text(("query",)).split())
            fields = {name: str(record.fields.get(name) or "") for name in FIELDS}
            asked = table.setdefault(words, _Asked(Query(id=str(len(table) + 1), text=words), fields))
            if asked.fields != fields:
                raise DataError(f"{record.where}: query {words!r} has other categories than above", expected="the same")
            image = record.identifier(_IMAGE, "image")
            if image in asked.found:
                raise DataError(f"{record.where}: image {image} stands twice in query {words!r}", expected="once")
            asked.found[image] = (picture(image, record.text(_PATH), self._root), _score(record), _relevant(record))
        return list(table.values())


def _score(record: Record) -> float:
    value = record.fields.get("clip_score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{record.where}: clip_score {shorten(value)}", expected="a finite number")
    return float(value)


def _relevant(record: Record) -> int:
    value = record.fields.get("relevant")
    if value not in (0, 1):
        raise DataError(f"{record.where}: relevant {shorten(value)}", expected="0 or 1, or false or true")
    return int(value)

"""The Cranfield and CISI collections as their files are handed down: the SMART format. Downloads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rerank.collections.base.files import FileCollection, Files, existing_folder, locate, require
from rerank.errors import DataError
from rerank.io.json_records import once
from rerank.io.smart import one_line, read_records
from rerank.io.text_files import open_text
from rerank.types import Document, Qrels, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What tells one collection's files from another's.

    Attributes:
        name: The collection.
        docs: Names of its documents' file.
        queries: Names of its queries' file.
        qrels: Names of its judgments' file.
        numbered: Whether a query's id is its place in the file, and not the number after ``.I``.
    """

    name: str
    docs: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: tuple[str, ...]
    numbered: bool


_FORMS = (
    _Form(
        name="cranfield",
        docs=("cran.all.1400", "cran.all"),
        queries=("cran.qry",),
        qrels=("cranqrel",),
        numbered=True,
    ),
    _Form(
        name="cisi",
        docs=("CISI.ALL", "cisi.all"),
        queries=("CISI.QRY", "cisi.qry"),
        qrels=("CISI.REL", "cisi.rel"),
        numbered=False,
    ),
)


class Cranfield(FileCollection):
    """A folder with Cranfield's cran.all.1400, cran.qry, cranqrel, or with CISI.ALL, CISI.QRY, CISI.REL.

    Cranfield's grades are inverted: 1 is a complete answer, 4 of minimum interest, and -1 (and 5, of the same
    meaning) not relevant. They are turned into gains: 5 - grade, so 1 becomes 4 and 4 becomes 1; -1 becomes 0.
    The judgments count the queries from 1 in the order of the file, so those are the ids; the numbers that
    cran.qry gives them are not. Two documents, 471 and 995, have no text. A document's text is its field ``.W``,
    which in Cranfield begins with the title; the title is kept apart as well.

    CISI's judgments have no grades, so each has grade 1; the ids are the numbers in the files.

    Args:
        folder: The folder; the files may be gzipped.
        relevant: The lowest gain that binary measures count as relevant.

    Raises:
        MissingResourceError: The folder, or one of the files of its documents and queries, is not there.
    """

    def __init__(self, folder: str, *, relevant: int = 1) -> None:
        """Find the files; nothing is read yet."""
        where = existing_folder(folder, "Cranfield's or CISI's files")
        names = [name for form in _FORMS for name in form.docs[:1]]
        form = next((form for form in _FORMS if locate(where, form.docs)), None)
        self._form = form or _FORMS[0]
        docs = require(where, self._form.docs if form else names, "folder in the SMART format")
        qrels = locate(where, self._form.qrels)
        files = Files(
            docs=(docs,),
            queries=(require(where, self._form.queries, f"complete folder of {self._form.name}"),),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(self._form.name, files, language="en", relevant=relevant)

    def docs(self) -> Iterator[Document]:
        """Stream the documents."""
        found = (
            (r.where, Document(id=r.number, title=one_line(r.fields.get("T", "")), text=r.fields.get("W", "")))
            for r in read_records(self.files.docs[0])
        )
        return once(found, "document")

    def queries(self) -> list[Query]:
        """All queries in file order, each on one line.

        Raises:
            DataError: A query has no text, or the file is wrong.
        """
        return list(once(self._numbered(), "query"))

    def _numbered(self) -> Iterator[tuple[str, Query]]:
        for place, record in enumerate(read_records(self.files.queries[0]), 1):
            if not record.fields.get("W"):
                raise DataError(f"{record.where}: query {record.number} has no text", expected="a field .W")
            query_id = str(place) if self._form.numbered else record.number
            yield record.where, Query(id=query_id, text=one_line(record.fields["W"]))

    @cached_property
    def _judged(self) -> Qrels:
        if not self.files.qrels:
            return Qrels({}, name=self.name)
        path = self.files.qrels[0]
        return Qrels(_judgments(path, graded=self._form.name == "cranfield"), name=str(path))


def gain(grade: int, where: str) -> int:
    """Cranfield's grade as a gain: 1..4 become 4..1, -1 and 5 become 0.

    Raises:
        DataError: There is no such grade.
    """
    if grade not in (-1, 1, 2, 3, 4, 5):
        raise DataError(f"{where}: grade {grade}", expected="1 (complete answer) to 5 (no interest), or -1")
    return max(0, 5 - grade) if grade > 0 else 0


def _judgments(path: Path, *, graded: bool) -> dict[str, dict[str, int]]:
    """Cranfield's three columns (query document grade), or CISI's four (query document 0 0.0), whose grade is 1."""
    columns = 3 if graded else 4
    table: dict[str, dict[str, int]] = {}
    with open_text(path) as stream:
        for count, line in enumerate(stream, 1):
            parts, where = line.split(), f"{path}:{count}"
            if not parts:
                continue
            if len(parts) != columns or not all(re.fullmatch(r"-?[0-9]{1,9}", part) for part in parts[:3]):
                raise DataError(
                    f"{where}: {line.strip()[:60]!r}",
                    expected="query, document and grade" if graded else "query, document, 0 and 0.0",
                )
            query, doc = str(int(parts[0])), str(int(parts[1]))
            judged = table.setdefault(query, {})
            if doc in judged:
                raise DataError(f"{where}: document {doc} of query {query} is judged twice", expected="once")
            judged[doc] = gain(int(parts[2]), where) if graded else 1
    if not table:
        raise DataError(f"{path} is empty", expected="at least one judgment")
    return table

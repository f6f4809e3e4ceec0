"""Provider of the Cranfield and CISI collections, read from local files in their original SMART format."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from rerank.collections.base import CollectionFiles, FileCollection, find_file, require_file, require_path
from rerank.errors import DataError
from rerank.io.json_records import check_unique_ids
from rerank.io.text_files import open_text_file
from rerank.io.topic_formats import join_text_file_lines, read_smart_format_file
from rerank.types import Document, Qrels, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Possible file names and the conventions of one collection."""

    name: str
    docs: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: tuple[str, ...]
    #: Whether a query's id is its position in the file, from 1, instead of the number after ``.I``.
    numbered: bool


_CRANFIELD = _Layout(
    name="cranfield", docs=("cran.all.1400", "cran.all"), queries=("cran.qry",), qrels=("cranqrel",), numbered=True
)
_CISI = _Layout(
    name="cisi",
    docs=("CISI.ALL", "cisi.all"),
    queries=("CISI.QRY", "cisi.qry"),
    qrels=("CISI.REL", "cisi.rel"),
    numbered=False,
)


class Cranfield(FileCollection):
    """A folder with Cranfield's cran.all.1400, cran.qry, cranqrel, or with CISI.ALL, CISI.QRY, CISI.REL.

    Cranfield's grades are inverted: 1 is a complete answer, 4 is of minimum interest, and -1 (or 5) is not relevant.
    They are converted to gains, 5 - grade: 1 becomes 4, 4 becomes 1, and -1 becomes 0. Query ids are positions in the
    file, from 1, because the judgments refer to positions, not to the numbers in cran.qry. Documents 471 and 995 have
    no text. The text of a document is its field ``.W``, which in Cranfield begins with the title; the title is also
    kept as the title of the document.

    CISI's judgments have no grades, so the grade of each is 1; query and document ids are the numbers in the files.
    Binary measures count gains from ``relevant`` as relevant.
    """

    format_name: ClassVar[str] = "Cranfield"

    def __init__(self, folder: str, *, relevant: int = 1) -> None:
        where = require_path(folder, "Cranfield's or CISI's files", folder=True)
        found = next((layout for layout in (_CRANFIELD, _CISI) if find_file(where, layout.docs)), None)
        self._layout = layout = found or _CRANFIELD
        names = layout.docs if found else (_CRANFIELD.docs[0], _CISI.docs[0])
        qrels = find_file(where, layout.qrels)
        files = CollectionFiles(
            docs=(require_file(where, names, "folder in the SMART format"),),
            queries=(require_file(where, layout.queries, f"complete folder of {layout.name}"),),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(layout.name, files, relevant=relevant)

    def docs(self) -> Iterator[Document]:

        def documents() -> Iterator[tuple[str, Document]]:
            for record in read_smart_format_file(self.files.docs[0]):
                title, text = join_text_file_lines(record.fields.get("T", "")), record.fields.get("W", "")
                yield record.where, Document(id=record.number, title=title, text=text)

        return check_unique_ids(documents(), "document")

    def queries(self) -> list[Query]:
        queries = []
        for position, record in enumerate(read_smart_format_file(self.files.queries[0]), 1):
            if not record.fields.get("W"):
                raise DataError(f"{record.where}: query {record.number} has no text", expected="a field .W")
            query_id = str(position) if self._layout.numbered else record.number
            queries.append((record.where, Query(id=query_id, text=join_text_file_lines(record.fields["W"]))))
        return list(check_unique_ids(queries, "query"))

    @cached_property
    def _judged(self) -> Qrels:
        if not self.files.qrels:
            return Qrels({}, name=self.name)
        path = self.files.qrels[0]
        table: dict[str, dict[str, int]] = {}
        # The columns are query, document and grade for Cranfield; query, document, 0 and 0.0 for CISI.
        graded = self._layout is _CRANFIELD
        with open_text_file(path) as stream:
            for count, line in enumerate(stream, 1):
                parts, where = line.split(), f"{path}:{count}"
                if not parts:
                    continue
                if len(parts) != 4 - graded or not all(re.fullmatch(r"-?[0-9]{1,9}", part) for part in parts[:3]):
                    raise DataError(
                        f"{where}: the line begins with {line.strip()[:60]!r}",
                        expected="query, document and grade" if graded else "query, document, 0 and 0.0",
                    )
                query, doc = str(int(parts[0])), str(int(parts[1]))
                judged = table.setdefault(query, {})
                if doc in judged:
                    raise DataError(
                        f"{where}: document {doc} of query {query} is judged twice", expected="one judgment"
                    )
                judged[doc] = grade_to_gain(int(parts[2]), where) if graded else 1
        if not table:
            raise DataError(f"{path} is empty", expected="at least one judgment")
        return Qrels(table, name=str(path))


def grade_to_gain(grade: int, where: str) -> int:
    """Convert a grade of Cranfield to a gain: 1, 2, 3, 4 become 4, 3, 2, 1, and -1 and 5 become 0."""
    if grade not in (-1, 1, 2, 3, 4, 5):
        raise DataError(f"{where}: the grade is {grade}", expected="1 (complete answer) to 5 (no interest), or -1")
    return max(0, 5 - grade) if grade > 0 else 0

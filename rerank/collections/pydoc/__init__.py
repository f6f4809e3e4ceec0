"""The demo collection: the documentation of Python's standard library, with how-to questions and graded judgments.

The documents are read from the source files of the running interpreter, so they differ slightly between versions. The
judgments cover only documents that Python 3.11, 3.12 and 3.13 share. README.md in this folder is the data card.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

from rerank.collections.pydoc._extract import read_standard_library_documents
from rerank.types import Document, Qrels, Query

#: Twelve queries for a quick demonstration. They were chosen by their BM25 rankings: their difficulty is mixed, and for
#: each query, a relevant document is among the top 30.
DEMO_SAMPLE: tuple[str, ...] = (
    *("q06", "q08", "q15", "q25", "q35", "q41"),
    *("q45", "q54", "q57", "q63", "q72", "q85"),
)


class Pydoc:
    """Modules, classes, functions and methods of the standard library, one document each, and questions about them.

    Documents are sorted by id; the library is read once per process, on first use (one to four seconds). Grade 3 means
    that a document answers the question, grade 2 that it answers the question partly or indirectly, grade 1 that it is
    related and helpful, and grade 0 that it is not helpful.
    """

    name = "pydoc"
    language = "en"
    drop_self = False
    relevant = 1

    @property
    def fingerprint(self) -> str:
        return _fingerprint()

    def docs(self) -> Iterator[Document]:
        return iter(read_standard_library_documents())

    def queries(self) -> list[Query]:
        rows = (line.split("\t") for line in _read("questions.tsv").splitlines())
        return [Query(id=query_id, text=text) for query_id, text in rows]

    def qrels(self) -> Qrels:
        grades: dict[str, dict[str, int]] = {}
        for line in _read("qrels.txt").splitlines():
            query_id, _, doc_id, grade = line.split()
            grades.setdefault(query_id, {})[doc_id] = int(grade)
        return Qrels(grades, name="pydoc")

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        table = {doc.id: doc for doc in read_standard_library_documents()}
        return {doc_id: table[doc_id] for doc_id in ids if doc_id in table}


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


@cache
def _fingerprint() -> str:
    digest = hashlib.sha256()
    for doc in read_standard_library_documents():
        digest.update(json.dumps([doc.id, doc.title, doc.text]).encode() + b"\n")
    for name in ("questions.tsv", "qrels.txt"):
        digest.update(json.dumps([name, _read(name)]).encode() + b"\n")
    return digest.hexdigest()

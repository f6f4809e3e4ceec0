"""Collections that are rerank requests: queries, each with its candidate list, in one JSON or JSON-lines file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rerank.collections.base.files import FileCollection, Files, existing, stem
from rerank.errors import DataError
from rerank.io.json_records import Record, parse, read_lines
from rerank.io.rerank_requests import Request
from rerank.io.text_files import open_text
from rerank.types import Document, Query, Run


class Requests(FileCollection):
    """A file of requests as rank_llm, RankGPT or Rankify write them: a JSON list, or one object a line; gzip too.

    The forms: ``{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc": {...}}]}``, where the query and
    the documents may also be plain texts; ``{"query", "hits": [{"content", "qid", "docid", "score"}]}``; and
    ``{"question", "ctxs": [{"id", "title", "text", "score"}]}``. A document's text is the first of text, segment,
    contents, content, body, passage that is there.

    The order of a list is the order in the file; ``rank`` is not read. The scores are kept where all are there and
    none is above the one before it, else the score at rank r is 1/r. A query without an id gets its number in the
    file, from 1, and a document without one ``QUERY:NUMBER``.

    Args:
        file: The file.
        qrels: A file of judgments; the requests bring none.
        order: ``given``, or ``score`` to sort each list by its scores, ties by document id, descending.
        language: ISO 639 code of the documents.
        relevant: The lowest grade that binary measures count as relevant.

    Raises:
        MissingResourceError: A file is not there.
    """

    def __init__(
        self,
        file: str,
        *,
        qrels: str = "",
        order: Literal["given", "score"] = "given",
        language: str = "en",
        relevant: int = 1,
    ) -> None:
        """Find the files; nothing is read yet."""
        path = existing(file, "a file")
        files = Files(docs=(path,), qrels=(existing(qrels, "a file"),) if qrels else ())
        super().__init__(stem(path), files, language=language, relevant=relevant)
        self.order = order

    @property
    def selecting(self) -> dict[str, str]:
        """The rule for the order decides the lists."""
        return {"order": self.order}

    def docs(self) -> Iterator[Document]:
        """Stream the documents of all lists, each once, in the order in which they come first.

        Raises:
            DataError: Two lists have different texts for one id.
        """
        seen: dict[str, bytes] = {}
        for request in self._requests():
            for doc in request.docs:
                content = hashlib.sha256(f"{doc.title}\0{doc.text}\0{doc.image}".encode()).digest()
                if doc.id not in seen:
                    seen[doc.id] = content
                    yield doc
                elif seen[doc.id] != content:
                    raise DataError(
                        f"{request.where}: document {doc.id!r} has another text here than in an earlier list",
                        expected="one text for each id",
                        remedy="Use the first stage candidates, which takes each list as it is",
                    )

    def queries(self) -> list[Query]:
        """All queries in file order."""
        return [request.query for request in self._requests()]

    def candidates(self) -> Run:
        """The lists, with the documents' texts."""
        by_score = self.order == "score"
        return Run((r.scored() if by_score else r.given() for r in self._requests()), name=self.name)

    def _requests(self) -> Iterator[Request]:
        """Stream the requests of a JSON-lines file; those of a JSON list are parsed once and kept."""
        seen: set[str] = set()
        for place, record in enumerate(self._records(), 1):
            request = Request.read(record, place)
            if request.query.id in seen:
                raise DataError(f"{request.where}: query {request.query.id!r} stands twice", expected="each id once")
            seen.add(request.query.id)
            yield request

    def _records(self) -> Iterator[Record]:
        return iter(self._list) if self._is_list else read_lines(self.files.docs[0])

    @cached_property
    def _is_list(self) -> bool:
        with open_text(self.files.docs[0]) as stream:
            return next((line.lstrip()[0] for line in stream if line.strip()), "") == "["

    @cached_property
    def _list(self) -> list[Record]:
        return _whole_list(self.files.docs[0])


def _whole_list(path: Path) -> list[Record]:
    with open_text(path) as stream:
        entries: Any = parse(stream.read(), str(path))
    if not entries:
        raise DataError(f"{path} holds an empty list", expected="at least one request")
    records = [Record(f"{path}, request {place}", entry) for place, entry in enumerate(entries, 1)]
    for record in records:
        if not isinstance(record.fields, dict):
            raise DataError(f"{record.where}: {record.fields!r:.60}", expected="an object")
    return records

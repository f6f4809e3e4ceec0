"""Provider of collections of rerank requests: queries with their candidate lists, in one JSON or JSON-lines file."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Literal

from rerank.collections.base import CollectionFiles, FileCollection, name_of_path, optional_path, require_path
from rerank.errors import DataError
from rerank.io.json_records import JsonRecord, parse_json, read_json_lines
from rerank.io.rerank_requests import RerankRequest
from rerank.io.text_files import open_text_file
from rerank.types import Document, Query, Ranking, Run


class Requests(FileCollection):
    """A file of requests in the format of rank_llm, RankGPT or Rankify: a JSON list or JSON lines, plain or gzipped.

    The formats are ``{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc": {...}}]}``, where the query
    and the documents may also be plain strings; ``{"query", "hits": [{"content", "qid", "docid", "score"}]}``; and
    ``{"question", "ctxs": [{"id", "title", "text", "score"}]}``. A document's text is the first of text, segment,
    contents, content, body, passage that is present.

    By default, a list keeps the order of the file, and ``rank`` is ignored. Scores are kept if all are present and do
    not increase; otherwise, the score at rank r is 1/r. The id of a query without an id is its number in the file, from
    1; that of a document without an id is ``QUERY:NUMBER``. With ``order=score``, each list is sorted by score and tied
    documents by id, both descending. Requests contain no judgments; ``qrels`` is an optional file of them.
    """

    format_name: ClassVar[str] = "Requests"

    def __init__(
        self,
        file: str,
        *,
        qrels: str = "",
        order: Literal["given", "score"] = "given",
        language: str = "en",
        relevant: int = 1,
    ) -> None:
        path = require_path(file, "a file")
        files = CollectionFiles(docs=(path,), qrels=optional_path(qrels))
        super().__init__(name_of_path(path), files, language=language, relevant=relevant)
        self.order = order

    @property
    def selecting(self) -> dict[str, str]:
        return {"order": self.order}

    def docs(self) -> Iterator[Document]:
        seen: dict[str, bytes] = {}
        for request in self._requests():
            for doc in request.docs:
                content = hashlib.sha256(f"{doc.title}\0{doc.text}\0{doc.image}".encode()).digest()
                if doc.id not in seen:
                    seen[doc.id] = content
                    yield doc
                elif seen[doc.id] != content:
                    raise DataError(
                        f"{request.where}: document {doc.id!r} has a different text than in an earlier list",
                        expected="one text for each id",
                        remedy="Use the first stage 'candidates', which reranks each list with its own texts",
                    )

    def queries(self) -> list[Query]:
        return [request.query for request in self._requests()]

    def candidates(self) -> Run:
        return Run(self.candidate_lists(), name=self.name)

    def candidate_lists(self) -> Iterator[Ranking]:
        for request in self._requests():
            yield request.sorted_by_score() if self.order == "score" else request.in_given_order()

    def _requests(self) -> Iterator[RerankRequest]:
        """Yield the requests; JSON lines are streamed, while a JSON list is parsed once and kept in memory."""
        seen: set[int] = set()  # hashes of ids, which may be long; with 128 bits, no two ids share a hash
        for number, record in enumerate(self._list if self._is_list else read_json_lines(self.files.docs[0]), 1):
            request = RerankRequest.from_record(record, number)
            key = int.from_bytes(hashlib.blake2b(request.query.id.encode(), digest_size=16).digest())
            if key in seen:
                raise DataError(f"{request.where}: duplicate query {request.query.id!r}", expected="each id once")
            seen.add(key)
            yield request

    @cached_property
    def _is_list(self) -> bool:
        with open_text_file(self.files.docs[0]) as stream:
            return next((line.lstrip()[0] for line in stream if line.strip()), "") == "["

    @cached_property
    def _list(self) -> list[JsonRecord]:
        path = self.files.docs[0]
        with open_text_file(path) as stream:
            entries: Any = parse_json(stream.read(), str(path))
        if not entries:
            raise DataError(f"{path} contains an empty list", expected="at least one request")
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                raise DataError(f"{path}, request {number} begins with {entry!r:.60}", expected="an object")
        return [JsonRecord(f"{path}, request {number}", entry) for number, entry in enumerate(entries, 1)]

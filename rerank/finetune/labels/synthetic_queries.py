"""Creation of synthetic queries for a collection without queries, from its documents or with a model.

The result is a folder that ``jsonl:FOLDER`` opens: documents (without the extracted text), queries, and qrels in which
the source document of a query is the only relevant document. A query is kept if a first stage retrieves its source
document among the top N (round-trip filtering).

Extraction of queries from documents: the title or first sentence becomes the query and is removed from the document.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from rerank.collections import Collection
from rerank.collections.jsonl import Jsonl
from rerank.errors import DataError, PartialFailureError, RerankError, UnknownNameError, UsageError
from rerank.finetune.labels.leaks import normalise_query_for_leaks
from rerank.finetune.labels.list_texts import (
    DOCS,
    QUERIES,
    make_label_folder,
    training_document_row,
    write_label_folder_marker,
)
from rerank.finetune.labels.query_writing import QueryWriter
from rerank.io.run_files import write_qrels
from rerank.io.text_files import replace_text_file
from rerank.prompts.passages import collapse_passage_whitespace
from rerank.retrieval import open_first_stage
from rerank.store import CallLog, log_calls
from rerank.tasks import Reply
from rerank.types import Document, Qrels, Query

QuerySource = Literal["title", "first-sentence", "llm"]
QRELS, CALLS = "qrels.txt", "calls.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """Options for creating synthetic queries: their source, number, length and round-trip filter.

    Attributes:
        source: Source of the queries: ``title``, ``first-sentence`` or ``llm``.
        count: Number of source documents, sampled at random; None for all documents.
        min_words: Minimum length of a query, in words.
        max_words: Maximum length of a query, in words.
        first_stage: First stage of the round-trip filter.
        within: N of the round-trip filter: a query is kept only if its source document is among the top N of the first
            stage; 0 disables the filter.
        seed: Random seed of the sample.
    """

    source: QuerySource
    count: int | None = None
    min_words: int = 3
    max_words: int = 32
    first_stage: str = "bm25"
    within: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the numbers are in range, and that the source ``llm`` has a number of documents."""
        if self.source == "llm" and self.count is None:
            raise UsageError(
                "--from llm is used without --count",
                expected="a number of documents, because each document costs a call",
                remedy="Pass --count",
            )
        if not 1 <= self.min_words <= self.max_words or self.within < 0 or (self.count or 1) < 1:
            raise UsageError(
                f"--min-words is {self.min_words}, --max-words is {self.max_words}, --within is {self.within}, "
                f"and --count is {self.count}",
                expected="--min-words at least 1 and at most --max-words, --within at least 0, --count at least 1",
            )

    @classmethod
    def make(cls, source: str, **options: Any) -> QueryOptions:
        """Create options from the values of command-line options."""
        if source not in EXTRACTORS:
            raise UnknownNameError("source of queries", source, EXTRACTORS)
        return cls(source=cast(QuerySource, source), **options)

    def fits(self, query: str) -> bool:
        """Return whether a query has at least ``min_words`` and at most ``max_words`` words."""
        return self.min_words <= len(query.split()) <= self.max_words


@dataclass(frozen=True, slots=True)
class _Draft:
    """A query and the id of its source document."""

    query: Query
    doc: str


def make_synthetic_queries(
    collection: Collection,
    options: QueryOptions,
    folder: Path,
    *,
    writer: QueryWriter | None = None,
    on_reply: Callable[[Reply], None] = lambda reply: None,
) -> dict[str, Any]:
    """Create queries and write them into a folder; replies of a model are logged there and reused by later calls.

    Args:
        collection: Collection with the documents.
        options: Options for creating queries.
        folder: Output folder; files of an earlier call are overwritten, except the log of replies.
        writer: Query writer; required for the source ``llm``, and not allowed for other sources.
        on_reply: Function that is called after each reply.

    Returns:
        ``folder``, ``documents`` and ``queries`` (numbers written), and ``dropped`` (numbers dropped, by reason).
    """
    if (writer is None) == (options.source == "llm"):
        raise UsageError(
            f"The source of queries is {options.source!r}, {'but no' if writer is None else 'but a'} model is given",
            expected="a model for the source 'llm', and no model for other sources",
        )
    dropped: Counter[str] = Counter()
    make_label_folder(folder)
    documents, sources = _write_synthetic_documents(collection, options, folder, dropped)
    drafts = [draft for doc, text in sources if (draft := _draft_synthetic_query(doc.id, 1, text, options, dropped))]
    if writer is not None:
        drafts = list(
            _generate_synthetic_queries(writer, [doc for doc, _ in sources], options, folder, dropped, on_reply)
        )
    drafts = _round_trip_synthetic_queries(_unique_synthetic_queries(drafts, dropped), options, folder, dropped)
    if not drafts:
        raise _no_synthetic_query_error(collection.name, dropped)
    with replace_text_file(folder / QUERIES) as file:
        for draft in drafts:
            file.write(json.dumps({"id": draft.query.id, "text": draft.query.text}, ensure_ascii=False) + "\n")
    write_qrels(Qrels({draft.query.id: {draft.doc: 1} for draft in drafts}), folder / QRELS)
    counts = {"documents": documents, "queries": len(drafts), "dropped": dict(+dropped)}
    write_label_folder_marker(folder, {"collection": collection.name, "from": options.source, **counts})
    return {"folder": str(folder), **counts}


def _no_synthetic_query_error(name: str, dropped: Counter[str]) -> RerankError:
    """Return the error to raise if all queries were dropped: a partial failure if calls failed, else a data error."""
    counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
    message = f"No query is left for {name!r} ({counts or 'its documents contain none'})"
    if dropped["no reply"]:
        return PartialFailureError(message, remedy="Repeat the command: it reuses the logged replies")
    return DataError(
        message,
        remedy="Allow other lengths, search deeper with --within, or choose another source with --from",
    )


def _write_synthetic_documents(
    collection: Collection, options: QueryOptions, folder: Path, dropped: Counter[str]
) -> tuple[int, list[tuple[Document, str]]]:
    """Write all documents without the extracted texts; return their number and the sampled (document, query) pairs."""
    extract = EXTRACTORS[options.source]
    count = 0

    def extract_all() -> Iterator[tuple[bytes, Document, str]]:
        nonlocal count
        for doc in collection.docs():
            query, rest = extract(doc)
            if not rest.text.strip():
                dropped["documents of which nothing is left"] += 1
                continue
            file.write(json.dumps(training_document_row(rest), ensure_ascii=False) + "\n")
            count += 1
            if query or options.source == "llm":
                yield hashlib.sha256(f"{options.seed}/{doc.id}".encode("utf-8", "surrogatepass")).digest(), rest, query

    # The sample consists of the documents with the smallest hashes, so it does not depend on the document order.
    with replace_text_file(folder / DOCS) as file:
        sample = (
            sorted(extract_all(), key=lambda entry: entry[0])
            if options.count is None
            else heapq.nsmallest(options.count, extract_all(), key=lambda entry: entry[0])
        )
    return count, [(doc, query) for _, doc, query in sample]


def _draft_synthetic_query(
    doc: str, number: int, text: str, options: QueryOptions, dropped: Counter[str]
) -> _Draft | None:
    if not text:
        return None
    if not options.fits(text):
        dropped["queries too short or too long"] += 1
        return None
    return _Draft(Query(id=f"{doc}#{number}", text=text), doc)


def _generate_synthetic_queries(
    writer: QueryWriter,
    docs: Sequence[Document],
    options: QueryOptions,
    folder: Path,
    dropped: Counter[str],
    on_reply: Callable[[Reply], None],
) -> Iterator[_Draft]:
    with CallLog(folder / CALLS) as log:
        logged = replace(writer, backend=log_calls(writer.backend, log, on_reply=on_reply))
        for query in logged.write(docs, dropped):
            if draft := _draft_synthetic_query(query.doc, query.number, query.text, options, dropped):
                yield draft


def _unique_synthetic_queries(drafts: Sequence[_Draft], dropped: Counter[str]) -> list[_Draft]:
    """Return the queries without duplicates.

    A query that comes from several documents is dropped entirely, because it has several relevant documents.
    """
    sources: dict[str, set[str]] = {}
    for draft in drafts:
        sources.setdefault(normalise_query_for_leaks(draft.query.text), set()).add(draft.doc)
    unique: dict[str, _Draft] = {}
    for draft in drafts:
        words = normalise_query_for_leaks(draft.query.text)
        if len(sources[words]) > 1:
            dropped["queries that several documents give"] += 1
        elif words in unique:
            dropped["queries that a document gives twice"] += 1
        else:
            unique[words] = draft
    return list(unique.values())


def _round_trip_synthetic_queries(
    drafts: list[_Draft], options: QueryOptions, folder: Path, dropped: Counter[str]
) -> list[_Draft]:
    """Return the queries whose source document the first stage retrieves among the top ``within``."""
    if not options.within or not drafts:
        return drafts
    corpus = Jsonl(docs=str(folder / DOCS))
    run = open_first_stage(options.first_stage, corpus).search([draft.query for draft in drafts], options.within)
    retrieved = [d for d in drafts if d.query.id in run and d.doc in run[d.query.id].doc_ids]
    dropped["queries that do not find their document again"] += len(drafts) - len(retrieved)
    return retrieved


_WORD = re.compile(r"\w+")
#: End of a sentence, with closing quotes and brackets.
_END = re.compile(r"[.!?]+[\"')\]”’]*(?=\s|$)|[。！？]+[」』”’）]*")

#: Function that takes a document and returns its query (empty if there is none) and the remaining document.
QueryExtractor = Callable[[Document], tuple[str, Document]]


def extract_title_as_query(doc: Document) -> tuple[str, Document]:
    """Return the title as a query, and the document with the title removed, also from the start of its text.

    >>> query, rest = extract_title_as_query(Document(id="1", title="On Fleas", text="On fleas. They live for months."))
    >>> query, rest.title, rest.text
    ('On Fleas', '', 'They live for months.')
    """
    return collapse_passage_whitespace(doc.title), replace(
        doc, title="", text=_remove_training_query_title(doc.text, doc.title)
    )


def extract_first_sentence_as_query(doc: Document) -> tuple[str, Document]:
    """Return the first sentence of the text as a query, and the document without this sentence; the title is kept.

    >>> query, rest = extract_first_sentence_as_query(Document(id="1", text="What are fleas? They live for months."))
    >>> query, rest.text
    ('What are fleas?', 'They live for months.')
    """
    end = _END.search(doc.text)
    if end is None:
        return collapse_passage_whitespace(doc.text), replace(doc, text="")
    return collapse_passage_whitespace(doc.text[: end.end()]), replace(doc, text=doc.text[end.end() :].strip())


def extract_no_query(doc: Document) -> tuple[str, Document]:
    """Return an empty query and the unchanged document, for queries that are generated by a model."""
    return "", doc


EXTRACTORS: Mapping[str, QueryExtractor] = {
    "title": extract_title_as_query,
    "first-sentence": extract_first_sentence_as_query,
    "llm": extract_no_query,
}


def _remove_training_query_title(body: str, title: str) -> str:
    """Remove a title at the start of a text, ignoring case and punctuation."""
    expected = [word.casefold() for word in _WORD.findall(title)]
    words = list(_WORD.finditer(body))[: len(expected)] if expected else []
    if not words or [word[0].casefold() for word in words] != expected:
        return body.strip()
    return body[words[-1].end() :].lstrip(" \t\r\n.,:;!?-–—)\"'").rstrip()

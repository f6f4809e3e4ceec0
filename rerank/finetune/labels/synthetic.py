"""Queries made for a collection that has none: taken from its documents or written by a model, and tried out.

What comes out is a folder that ``jsonl:FOLDER`` opens: documents (without what makes the queries), queries, and for
each query its source as the one judgment. A query is kept if a first stage finds its source again among the first so
many: the round trip. Knows how the parts fit together, not how a query is made (`cutting`, `writing`).
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from rerank.collections import Collection
from rerank.collections.jsonl import Jsonl
from rerank.errors import DataError, PartialFailureError, RerankError, UnknownNameError, UsageError
from rerank.finetune.labels.cutting import CUTS
from rerank.finetune.labels.leaks import normalised
from rerank.finetune.labels.texts import DOCS, QUERIES, doc_row, make_folder, write_mark
from rerank.finetune.labels.writing import Writer
from rerank.io.run_files import write_qrels
from rerank.io.text_files import replace_text
from rerank.retrieval import open_retriever
from rerank.store.calls import CallLog
from rerank.store.logged import Logged
from rerank.tasks import Reply
from rerank.types import Document, Qrels, Query

From = Literal["title", "first-sentence", "llm"]
QRELS, CALLS = "qrels.txt", "calls.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which queries are made.

    Attributes:
        source: ``title``, ``first-sentence`` or ``llm``.
        count: Documents that give queries, drawn by chance; None for all that can.
        min_words: Shorter queries are dropped.
        max_words: Longer ones too.
        first_stage: Who has to find the source again.
        within: Among so many; 0 asks nobody.
        seed: For the draw.

    Raises:
        UsageError: A number out of range.
    """

    source: From
    count: int | None = None
    min_words: int = 3
    max_words: int = 32
    first_stage: str = "bm25"
    within: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.source == "llm" and self.count is None:
            raise UsageError(
                "--from llm without --count", expected="a number of documents, as each is a call", remedy="Pass --count"
            )
        if not 1 <= self.min_words <= self.max_words or self.within < 0 or (self.count or 1) < 1:
            raise UsageError(
                f"--min-words {self.min_words}, --max-words {self.max_words}, --within {self.within}, "
                f"--count {self.count}",
                expected="words from 1 up, the minimum not above the maximum; --within from 0 and --count from 1 up",
            )

    @classmethod
    def make(cls, source: str, **more: Any) -> Wanted:
        """Check a choice as it comes from a flag.

        Raises:
            UnknownNameError: There is no such source of queries.
        """
        if source not in CUTS:
            raise UnknownNameError("source of queries", source, CUTS)
        return cls(source=cast(From, source), **more)

    def fits(self, query: str) -> bool:
        """Whether a query's length will do."""
        return self.min_words <= len(query.split()) <= self.max_words


@dataclass(frozen=True, slots=True)
class _Draft:
    """A query and its source."""

    query: Query
    doc: str


def make_queries(
    collection: Collection,
    wanted: Wanted,
    folder: Path,
    *,
    writer: Writer | None = None,
    on_reply: Callable[[Reply], None] = lambda reply: None,
) -> dict[str, Any]:
    """Make queries and write the folder. What a model answered is kept there and is not asked again.

    Args:
        collection: Where the documents are.
        wanted: Which queries.
        folder: Where to; one that was made here before is written anew.
        writer: Who writes, for ``llm``.
        on_reply: Called after each reply.

    Returns:
        ``folder``, ``documents``, ``queries``, ``dropped`` (reason -> how many).

    Raises:
        UsageError: The folder holds something else, or ``llm`` without a writer.
        DataError: No query is left.
        PartialFailureError: Nor is any, where calls got no reply.
        RerankError: What the backend or the first stage raises; replies that were committed stay.
    """
    if (writer is None) == (wanted.source == "llm"):
        raise UsageError(f"Queries from {wanted.source} {'without' if writer is None else 'with'} a model")
    dropped: Counter[str] = Counter()
    make_folder(folder)
    documents, sources = _write_documents(collection, wanted, folder, dropped)
    drafts = [draft for doc, text in sources if (draft := _draft(doc.id, 1, text, wanted, dropped))]
    if writer is not None:
        drafts = list(_written(writer, [doc for doc, _ in sources], wanted, folder, dropped, on_reply))
    drafts = _found_again(_once(drafts, dropped), wanted, folder, dropped)
    if not drafts:
        raise _nothing(collection.name, dropped)
    with replace_text(folder / QUERIES) as file:
        for draft in drafts:
            file.write(json.dumps({"id": draft.query.id, "text": draft.query.text}, ensure_ascii=False) + "\n")
    write_qrels(Qrels({draft.query.id: {draft.doc: 1} for draft in drafts}), folder / QRELS)
    counts = {"documents": documents, "queries": len(drafts), "dropped": dict(+dropped)}
    write_mark(folder, {"collection": collection.name, "from": wanted.source, **counts})
    return {"folder": str(folder), **counts}


def _nothing(name: str, dropped: Counter[str]) -> RerankError:
    """What to say where no query is left."""
    counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
    found = f"No query is left of {name!r} ({counts or 'it gives none'})"
    if dropped["no reply"]:
        return PartialFailureError(found, remedy="The same command asks again, and keeps what is there")
    return DataError(
        found,
        remedy="Allow other lengths, search deeper with --within, or take queries --from something else",
    )


def _write_documents(
    collection: Collection, wanted: Wanted, folder: Path, dropped: Counter[str]
) -> tuple[int, list[tuple[Document, str]]]:
    """Write all documents, cut; return their number and those that are drawn, each with its query."""
    cut = CUTS[wanted.source]
    count = 0

    def cut_all() -> Iterator[tuple[bytes, Document, str]]:
        nonlocal count
        for doc in collection.docs():
            query, rest = cut(doc)
            if not rest.text.strip():
                dropped["documents of which nothing is left"] += 1
                continue
            file.write(json.dumps(doc_row(rest), ensure_ascii=False) + "\n")
            count += 1
            if query or wanted.source == "llm":
                yield hashlib.sha256(f"{wanted.seed}/{doc.id}".encode("utf-8", "surrogatepass")).digest(), rest, query

    with replace_text(folder / DOCS) as file:
        drawn = (
            sorted(cut_all(), key=lambda one: one[0])
            if wanted.count is None
            else heapq.nsmallest(wanted.count, cut_all(), key=lambda one: one[0])
        )
    return count, [(doc, query) for _, doc, query in drawn]


def _draft(doc: str, number: int, text: str, wanted: Wanted, dropped: Counter[str]) -> _Draft | None:
    if not text:
        return None
    if not wanted.fits(text):
        dropped["queries too short or too long"] += 1
        return None
    return _Draft(Query(id=f"{doc}#{number}", text=text), doc)


def _written(
    writer: Writer,
    docs: Sequence[Document],
    wanted: Wanted,
    folder: Path,
    dropped: Counter[str],
    on_reply: Callable[[Reply], None],
) -> Iterator[_Draft]:
    with CallLog(folder / CALLS) as log:
        logged = replace(writer, backend=Logged(backend=writer.backend, log=log, on_reply=on_reply))
        for asked in logged.write(docs, dropped):
            if draft := _draft(asked.doc, asked.number, asked.text, wanted, dropped):
                yield draft


def _once(drafts: Sequence[_Draft], dropped: Counter[str]) -> list[_Draft]:
    """The queries that only one document gives: of any other the source is not the one right answer."""
    sources: dict[str, set[str]] = {}
    for draft in drafts:
        sources.setdefault(normalised(draft.query.text), set()).add(draft.doc)
    kept: dict[str, _Draft] = {}
    for draft in drafts:
        words = normalised(draft.query.text)
        if len(sources[words]) > 1:
            dropped["queries that several documents give"] += 1
        elif words in kept:
            dropped["queries that a document gives twice"] += 1
        else:
            kept[words] = draft
    return list(kept.values())


def _found_again(drafts: list[_Draft], wanted: Wanted, folder: Path, dropped: Counter[str]) -> list[_Draft]:
    """The queries whose source the first stage finds among the first so many."""
    if not wanted.within or not drafts:
        return drafts
    corpus = Jsonl(docs=str(folder / DOCS))
    run = open_retriever(wanted.first_stage, corpus).search([draft.query for draft in drafts], wanted.within)
    kept = [d for d in drafts if d.query.id in run and d.doc in run[d.query.id].doc_ids]
    dropped["queries that do not find their document again"] += len(drafts) - len(kept)
    return kept

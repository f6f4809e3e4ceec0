"""A collection with the queries, documents, judgments and candidate lists of one subset and split of an mteb task.

mteb 2.x stores a split as ``corpus`` (id, title, text), ``queries`` (id, text, optionally instruction),
``relevant_docs`` and ``top_ranked``. Queries and instructions are joined as mteb joins them for its own models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from rerank.collections.mteb.library import language_of_mteb_collection
from rerank.errors import DataError, UnknownNameError
from rerank.io.json_records import parse_json_text
from rerank.types import Document, Qrels, Query, Ranking, Run

#: Characters that TREC run files cannot contain in an id, and the escape character.
_UNWRITABLE = re.compile('[%\\s\0\ufeff\ud800-\udfff]|^[\\[{"]')
_COMMIT = re.compile(r"[0-9a-f]{40}")


def escape_mteb_collection_id(identifier: str) -> str:
    """Percent-encode the characters of an id that run files cannot contain, and ``%`` itself.

    >>> escape_mteb_collection_id("a b%"), escape_mteb_collection_id("doc-1")
    ('a%20b%25', 'doc-1')
    """
    return _UNWRITABLE.sub(
        lambda match: "".join(f"%{b:02X}" for b in _encode_collection_id_character(match[0])), identifier
    )


def _encode_collection_id_character(character: str) -> bytes:
    return character.encode("utf-8", "surrogatepass")


def mteb_collection_query_text(row: Mapping[str, Any]) -> str:
    """Return a query as one text: the query or the turns of its conversation, together with its instruction.

    As in mteb, the instruction follows a text but precedes a conversation.
    """
    query, instruction = row["text"], row.get("instruction")
    if isinstance(query, str):
        return f"{query} {instruction}" if instruction is not None else query
    turns = "; ".join(turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in query)
    return f"{instruction} {turns}" if instruction is not None else turns


class TaskDocuments:
    """The documents of one split of a task, by id. If several rows have the same id, the last one is used, as in mteb.

    Args:
        rows: mteb's ``corpus``, a data set with the columns id, text and optionally title.
        where: Description of the data for messages.

    Attributes:
        own_ids: Mapping from escaped document id to id in mteb.
    """

    def __init__(self, rows: Any, where: str) -> None:
        """Read the ids without the texts."""
        self._rows, self._where = rows, where
        self._row_of = {str(own_id): row for row, own_id in enumerate(rows["id"])}
        self.own_ids = {escape_mteb_collection_id(own_id): own_id for own_id in self._row_of}

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._row_of)

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in the order of their rows."""
        for own_id, row in self._row_of.items():
            yield self._document(own_id, self._rows[row])

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these escaped ids; unknown ids are omitted."""
        own_ids = [self.own_ids[doc_id] for doc_id in ids if doc_id in self.own_ids]
        return {
            escape_mteb_collection_id(own_id): self._document(own_id, self._rows[self._row_of[own_id]])
            for own_id in own_ids
        }

    def _document(self, own_id: str, row: Mapping[str, Any]) -> Document:
        where = f"{self._where}, document {own_id!r}"
        title = parse_json_text(row.get("title") or "", where)
        return Document(
            id=escape_mteb_collection_id(own_id),
            title=title.strip(),
            text=parse_json_text(row["text"] or "", where).strip(),
        )


class TaskSplit:
    """A collection of one subset and split of an mteb task.

    Ids are escaped with `escape_mteb_collection_id`, so that run files can contain them.

    Args:
        metadata: Metadata of the task.
        subset: Name of the subset in mteb, ``default`` if there is only one.
        split: Name of the split.
        data: mteb's data of the split: corpus, queries, and optionally relevant_docs and top_ranked.
        drop_self: Whether to drop a document with the query's own id from its ranking.
        allowed: Mapping from the id of a query in mteb to the ids in mteb of the documents that may be ranked for it.
            All documents may be ranked for queries that are not in the mapping; None for no restrictions.
    """

    def __init__(
        self,
        metadata: Any,
        subset: str,
        split: str,
        data: Mapping[str, Any],
        *,
        drop_self: bool = False,
        allowed: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Store the data of a loaded task, and derive the collection's name and language from its metadata."""
        parts = [metadata.name, *([] if subset == "default" else [subset]), split]
        self.name = escape_mteb_collection_id("/".join(parts))
        self.language = language_of_mteb_collection(metadata, subset)
        self.relevant, self.drop_self = 1, drop_self
        self._metadata, self._subset, self._split, self._data = metadata, subset, split, data
        self.allowed = allowed or {}

    @cached_property
    def texts(self) -> TaskDocuments:
        """The documents of the split."""
        return TaskDocuments(self._data["corpus"], self.name)

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the documents in the order of their rows."""
        return iter(self.texts)

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; unknown ids are omitted."""
        return self.texts.lookup(ids)

    def queries(self) -> list[Query]:
        """Return the judged queries, as mteb does, or all queries if there are no judgments."""
        judged = self.qrels()
        return [query for query in self._queries if not judged or query.id in judged]

    @cached_property
    def _queries(self) -> list[Query]:
        rows = self._data["queries"]
        queries = [
            Query(
                id=escape_mteb_collection_id(str(row["id"])),
                text=parse_json_text(mteb_collection_query_text(row), self.name),
            )
            for row in rows
        ]
        if len({query.id for query in queries}) < len(queries):
            raise DataError(f"{self.name}: there is a duplicate query id", expected="each id once")
        return queries

    @cached_property
    def own_queries(self) -> dict[str, str]:
        """Mapping from escaped query id to query id in mteb."""
        return {escape_mteb_collection_id(str(own)): own for own in self._data["queries"]["id"]}

    def qrels(self) -> Qrels:
        """Return the judgments; empty if there are none."""
        return self._judged

    @cached_property
    def _judged(self) -> Qrels:
        relevant_docs = self._data.get("relevant_docs") or {}
        table = {
            escape_mteb_collection_id(str(query)): {
                escape_mteb_collection_id(str(doc)): int(grade) for doc, grade in judged.items()
            }
            for query, judged in relevant_docs.items()
            if judged
        }
        return Qrels(table, name=self.name)

    def excluded(self) -> dict[str, frozenset[str]]:
        """Return a mapping from query id to the documents that must not be ranked for it, as in BRIGHT."""
        every = frozenset(self.texts.own_ids.values())
        rows = {str(query): every.difference(map(str, docs)) for query, docs in self.allowed.items()}
        return {
            escape_mteb_collection_id(query): frozenset(map(escape_mteb_collection_id, docs))
            for query, docs in rows.items()
            if docs
        }

    def candidates(self) -> Run:
        """Return the task's candidate lists with document texts, one per query; empty if the task has no lists.

        If a list contains a document several times, only its first occurrence counts.
        """
        lists = self._data.get("top_ranked")
        if not lists:
            return Run((), name=self.name)
        ids = {
            escape_mteb_collection_id(str(query)): [escape_mteb_collection_id(str(doc)) for doc in docs]
            for query, docs in lists.items()
        }
        queries = self.queries()
        docs = self.lookup({doc for query in queries for doc in ids.get(query.id, ())})
        return Run((self._list(query, ids.get(query.id, []), docs) for query in queries), name=self.name)

    def _list(self, query: Query, ids: list[str], docs: Mapping[str, Document]) -> Ranking:
        missing = [doc for doc in ids if doc not in docs]
        if missing:
            raise DataError(
                f"{self.name}: the list of query {query.id!r} contains {len(missing)} unknown documents, "
                f"including {missing[0]!r}",
                remedy="Use lists that were made from this version of the task",
            )
        return Ranking.from_order(query, (docs[doc] for doc in dict.fromkeys(ids)))

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 that identifies the data.

        A published task is identified by the commit of its data set; the data of other tasks is read and hashed.
        """
        dataset = self._metadata.dataset
        published = _COMMIT.fullmatch(str(dataset.get("revision", ""))) is not None
        identity = {"task": self._metadata.name, "subset": self._subset, "split": self._split, **dataset}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
        if not published:
            for query in self._queries:
                digest.update(json.dumps([query.id, query.text]).encode())
            for doc in self.docs():
                digest.update(json.dumps([doc.id, doc.title, doc.text]).encode())
            for query_id, judged in self.qrels().items():
                digest.update(json.dumps([query_id, sorted(judged.items())]).encode())
        digest.update(json.dumps(self._data.get("top_ranked") or {}, default=str).encode())
        return digest.hexdigest()


def open_mteb_collection_split(
    task: Any, subset: str, split: str, *, candidates: Mapping[str, Any] | None = None
) -> TaskSplit:
    """Return one subset and split of a loaded task.

    Args:
        task: The task.
        subset: Name of the subset.
        split: Name of the split.
        candidates: Mapping from query to candidate documents that replaces the task's own lists; None to keep those.
    """
    for kind, name, known in (("subset", subset, task.dataset), ("split", split, task.dataset.get(subset, {}))):
        if name not in known:
            raise UnknownNameError(f"{kind} of {task.metadata.name}:", name, map(str, known))
    data = task.dataset[subset][split]
    drop_self = bool(task.ignore_identical_ids)
    allowed: Mapping[str, Iterable[str]] = {}
    lists, size = data.get("top_ranked") or {}, len(data["corpus"])
    # The lists of a retrieval task are not candidates: each contains the whole corpus except the query's excluded ids.
    # A retrieval task that was converted to reranking has short lists, which are candidates.
    if task.metadata.type == "Retrieval" and all(2 * len(docs) > size for docs in lists.values()):
        data, allowed = {**data, "top_ranked": None}, lists
    if candidates is not None:
        data = {**data, "top_ranked": candidates}
    return TaskSplit(task.metadata, subset, split, data, drop_self=drop_self, allowed=allowed)

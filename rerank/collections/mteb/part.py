"""One part (subset and split) of a task of mteb: queries, documents, judgments and lists.

mteb 2.x keeps a part as ``corpus`` (id, title, text), ``queries`` (id, text, perhaps instruction), ``relevant_docs``
and ``top_ranked``. Texts are put together as mteb hands them to its own models. Knows no models and no scores.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from rerank.collections.mteb.package import language_of
from rerank.errors import DataError, UnknownNameError
from rerank.io.json_records import text
from rerank.types import Document, Qrels, Query, Ranking, Run

#: What a TREC run cannot hold in an id, and the sign that marks what stands for it.
_UNWRITABLE = re.compile('[%\\s\0\ufeff\ud800-\udfff]|^[\\[{"]')
_COMMIT = re.compile(r"[0-9a-f]{40}")


def writable(identifier: str) -> str:
    """An id as run files can hold it: what they cannot is written as in web addresses, and so is ``%`` itself.

    >>> writable("a b%"), writable("doc-1")
    ('a%20b%25', 'doc-1')
    """
    return _UNWRITABLE.sub(lambda found: "".join(f"%{b:02X}" for b in _bytes(found[0])), identifier)


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", "surrogatepass")


def query_text(row: Mapping[str, Any]) -> str:
    """What a query says: its text and instruction, or the turns of its conversation, in one line each.

    As mteb joins them for models that take one text: an instruction follows a text and comes before a conversation.
    """
    said, instruction = row["text"], row.get("instruction")
    if isinstance(said, str):
        return f"{said} {instruction}" if instruction is not None else said
    turns = "; ".join(turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in said)
    return f"{instruction} {turns}" if instruction is not None else turns


class Texts:
    """The documents of a part, by id; of rows with one id the last counts, as in mteb.

    Args:
        rows: mteb's ``corpus``, a data set with the columns id, text and perhaps title.
        where: What they are, for messages.
    """

    def __init__(self, rows: Any, where: str) -> None:
        """Read the ids, not the texts."""
        self._rows, self._where = rows, where
        self._place = {str(own): at for at, own in enumerate(rows["id"])}
        self.own_ids = {writable(own): own for own in self._place}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._place)

    def __iter__(self) -> Iterator[Document]:
        """In the order of their rows."""
        for own, at in self._place.items():
            yield self._document(own, self._rows[at])

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Those with these (writable) ids; ids that do not exist are left out."""
        own = [self.own_ids[one] for one in ids if one in self.own_ids]
        return {writable(one): self._document(one, self._rows[self._place[one]]) for one in own}

    def _document(self, own: str, row: Mapping[str, Any]) -> Document:
        where = f"{self._where}, document {own!r}"
        title = text(row.get("title") or "", where)
        return Document(id=writable(own), title=title.strip(), text=text(row["text"] or "", where).strip())


class Part:
    """One subset and split of a task; a collection.

    Ids are written so that run files can hold them (see `writable`).

    Args:
        metadata: The task's.
        subset: mteb's name of the subset, ``default`` where there is one alone.
        split: Name of the split.
        data: mteb's data of the part: corpus and queries, and where they are known relevant_docs and top_ranked.
        drop_self: Whether a document with the query's id is dropped from its list.
    """

    def __init__(
        self, metadata: Any, subset: str, split: str, data: Mapping[str, Any], *, drop_self: bool = False
    ) -> None:
        """Take what is there."""
        parts = [metadata.name, *([] if subset == "default" else [subset]), split]
        self.name = writable("/".join(parts))
        self.language = language_of(metadata, subset)
        self.relevant, self.drop_self = 1, drop_self
        self._metadata, self._subset, self._split, self._data = metadata, subset, split, data

    @cached_property
    def texts(self) -> Texts:
        """The documents."""
        return Texts(self._data["corpus"], self.name)

    def docs(self) -> Iterator[Document]:
        """Stream the documents."""
        return iter(self.texts)

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """The documents with these ids; ids that do not exist are left out."""
        return self.texts.lookup(ids)

    def queries(self) -> list[Query]:
        """The queries; without those that have no judgments, where there are any, as mteb leaves them out."""
        judged = self.qrels()
        return [query for query in self._queries if not judged or query.id in judged]

    @cached_property
    def _queries(self) -> list[Query]:
        rows = self._data["queries"]
        found = [Query(id=writable(str(row["id"])), text=text(query_text(row), self.name)) for row in rows]
        if len({query.id for query in found}) < len(found):
            raise DataError(f"{self.name}: a query stands twice", expected="each id once")
        return found

    @cached_property
    def own_queries(self) -> dict[str, str]:
        """The queries' ids here -> mteb's."""
        return {writable(str(own)): own for own in self._data["queries"]["id"]}

    def qrels(self) -> Qrels:
        """The judgments; empty if they are not known."""
        return self._judged

    @cached_property
    def _judged(self) -> Qrels:
        given = self._data.get("relevant_docs") or {}
        table = {
            writable(str(query)): {writable(str(doc)): int(grade) for doc, grade in judged.items()}
            for query, judged in given.items()
            if judged
        }
        return Qrels(table, name=self.name)

    def candidates(self) -> Run:
        """The task's own lists with the documents' texts, one a query; empty if it brings none.

        A document that stands twice in a list counts where it comes first.

        Raises:
            DataError: A list names a document that the corpus lacks.
        """
        lists = self._data.get("top_ranked")
        if not lists:
            return Run((), name=self.name)
        wanted = {writable(str(query)): [writable(str(doc)) for doc in docs] for query, docs in lists.items()}
        queries = self.queries()
        docs = self.lookup({doc for query in queries for doc in wanted.get(query.id, ())})
        return Run((self._list(query, wanted.get(query.id, []), docs) for query in queries), name=self.name)

    def _list(self, query: Query, ids: list[str], docs: Mapping[str, Document]) -> Ranking:
        lost = [doc for doc in ids if doc not in docs]
        if lost:
            raise DataError(
                f"{self.name}: the list of query {query.id!r} names {len(lost)} documents that the corpus lacks, "
                f"first {lost[0]!r}",
                remedy="Take lists that were made from this version of the task",
            )
        return Ranking.from_order(query, (docs[doc] for doc in dict.fromkeys(ids)))

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what is read.

        A published task is told by its data set's commit; one that somebody defined, without one, is read.
        """
        own = self._metadata.dataset
        published = _COMMIT.fullmatch(str(own.get("revision", ""))) is not None
        said = {"task": self._metadata.name, "subset": self._subset, "split": self._split, **own}
        whole = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        if not published:
            for query in self._queries:
                whole.update(json.dumps([query.id, query.text]).encode())
            for doc in self.docs():
                whole.update(json.dumps([doc.id, doc.title, doc.text]).encode())
            for query_id, judged in self.qrels().items():
                whole.update(json.dumps([query_id, sorted(judged.items())]).encode())
        whole.update(json.dumps(self._data.get("top_ranked") or {}, default=str).encode())
        return whole.hexdigest()


def part_of(task: Any, subset: str, split: str) -> Part:
    """A part of a task whose data is loaded.

    Raises:
        UnknownNameError: The task has no such subset or split.
    """
    for kind, name, there in (("subset", subset, task.dataset), ("split", split, task.dataset.get(subset, {}))):
        if name not in there:
            raise UnknownNameError(f"{kind} of {task.metadata.name}:", name, map(str, there))
    data = task.dataset[subset][split]
    return Part(task.metadata, subset, split, data, drop_self=bool(task.ignore_identical_ids))

"""Judging sessions that can be interrupted and resumed: a pool, a judging order, a budget and a journal.

The journal holds the complete state. To resume a session, the judging order is replayed with the recorded judgments. To
undo a judgment, the order is replayed without the last judgment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.orders.base import SupportsAcross
from rerank.adjudication.pools import DEPTH, Pool
from rerank.adjudication.walks import AdjudicationBudget, JudgingWalk, open_walks
from rerank.collections.base import Corpus, fetch_documents
from rerank.errors import DataError, MissingResourceError, StorageError, UsageError, error_repr
from rerank.io.file_systems import file_kind, open_without_links, sync_folder
from rerank.types import Document, Qrels, Query, Window

#: Grades of TREC Deep Learning: irrelevant, related, highly relevant, perfectly relevant.
SCALE = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class JudgingTerms:
    """Settings of a judging session, which must be the same when it is resumed.

    Raises:
        UsageError: The grades are not different digits in ascending order, or all or none of them are relevant.
    """

    method: str  # selector of the judging order
    budget: AdjudicationBudget
    seed: int = 0
    depth: int = DEPTH
    relevant: int = 1  # lowest grade that counts as relevant for the judging order
    #: All grades of the scale, as digits in ascending order. A person enters a grade with a single key.
    grades: tuple[int, ...] = SCALE
    #: Who judges: ``{"judge": "person"}``, or ``llm`` with additional keys for the model and the prompt.
    judge: Mapping[str, str] = field(default_factory=lambda: {"judge": "person"})

    def __post_init__(self) -> None:
        shown = ",".join(map(str, self.grades))
        ascending = list(self.grades) == sorted(set(self.grades))
        if len(self.grades) < 2 or not ascending or not all(0 <= grade <= 9 for grade in self.grades):
            raise UsageError(
                f"The grades are {shown or '(none)'}",
                expected="two or more different digits in ascending order, as in --grades 0,1,2,3",
            )
        if not self.grades[0] < self.relevant <= self.grades[-1]:
            raise UsageError(
                f"The lowest relevant grade is {self.relevant}, and the grades are {shown}",
                expected=f"a lowest relevant grade from {self.grades[0] + 1} to {self.grades[-1]}",
                remedy="Set it with --relevant",
            )

    def to_dict(self, pool: Pool) -> dict[str, Any]:
        """Return a JSON object with all settings that determine which document is judged next, and the pool's hash."""
        return {
            "method": self.method,
            "seed": self.seed,
            "budget": str(self.budget),
            "depth": self.depth,
            "relevant": self.relevant,
            "grades": list(self.grades),
            "pool": hash_pool(pool),
            **self.judge,
        }


def parse_grades(text: str) -> tuple[int, ...]:
    """Parse the value of ``--grades``, such as ``0,1,2,3``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,18}", part) for part in parts):
        raise UsageError(
            f"--grades is {error_repr(text)}", expected="digits separated by commas, as in --grades 0,1,2,3"
        )
    return tuple(map(int, parts))


def hash_pool(pool: Pool) -> str:
    """Return the hexadecimal SHA-256 hash of a pool's systems, topics, documents and ranks."""
    digest = hashlib.sha256(json.dumps(pool.systems).encode())
    for topic in pool.topics:
        contents = [topic.id, topic.docs, topic.lengths.tolist(), topic.union]
        digest.update(json.dumps(contents).encode())
        digest.update(np.ascontiguousarray(topic.ranks, dtype="<i8").tobytes())
    return digest.hexdigest()


def describe_changes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Describe the differences between the settings stored in a file and the current settings.

    >>> describe_changes({"seed": 0, "depth": 100}, {"seed": 1, "depth": 100})
    ['--seed is 0 in the file and 1 now']
    """

    def show(value: object) -> str:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return ",".join(map(str, value))
        return "(none)" if value is None else str(value)

    differences = []
    for key in dict.fromkeys([*current, *stored]):
        old, new = stored.get(key), current.get(key)
        if old != new and key == "pool":
            differences.append("the pool differs (other runs, or other documents in them)")
        elif old != new:
            differences.append(f"--{key} is {show(old)} in the file and {show(new)} now")
    return differences


#: Reason why a document has no grade: the assessor skipped it, or the model's reply contained no grade.
Gap = Literal["skipped", "failed"]


@dataclass(frozen=True, slots=True)
class PendingJudgment:
    """A document that is to be judged next for a topic, given by their ids."""

    topic: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """A judgment of one document for one topic."""

    topic: str
    doc: str
    grade: int | None  # the grade; None if the document has no grade
    gap: Gap | None = None  # reason why there is no grade; None if there is a grade
    judge: str = "person"  # name of the assessor
    seconds: float = 0.0  # time that the judgment took, in seconds
    #: Text generated by a model; empty if the assessor is a person or grades were compared by likelihood.
    reply: str = ""
    detail: str = ""  # error message of a failed judgment; otherwise empty

    def to_dict(self) -> dict[str, Any]:
        line: dict[str, Any] = {"topic": self.topic, "doc": self.doc, "grade": self.grade, "judge": self.judge}
        line["seconds"] = round(self.seconds, 3)
        more = {"gap": self.gap, "reply": self.reply, "detail": self.detail}
        return line | {key: value for key, value in more.items() if value}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any], grades: tuple[int, ...]) -> Judgment:
        """Create a judgment from a line of the file; ValueError says why it is none with one of these grades."""
        if unknown := line.keys() - {part.name for part in fields(cls)}:
            raise ValueError(f"{error_repr(min(unknown))} is not a key of a judgment")
        topic, doc, grade, gap = (line.get(key) for key in ("topic", "doc", "grade", "gap"))
        if not isinstance(topic, str) or not isinstance(doc, str):
            raise ValueError('the line is neither a judgment with "topic" and "doc" nor an undo')
        if grade is None and gap not in ("skipped", "failed"):
            raise ValueError('the judgment has no grade, and no "gap" that gives the reason')
        if grade is not None and (type(grade) is not int or grade not in grades or gap is not None):
            raise ValueError(f"grade {error_repr(grade)} is not one of {', '.join(map(str, grades))}")
        seconds = line.get("seconds", 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise ValueError(f"seconds is {error_repr(seconds)}, which is not a number")
        words = {key: str(line.get(key, "")) for key in ("judge", "reply", "detail")}
        return cls(topic=topic, doc=doc, grade=grade, gap=gap, seconds=seconds, **words)


@dataclass(frozen=True, kw_only=True)
class PoolTexts:
    """Texts of the queries and documents in a pool, by id, which are shown to the assessor."""

    queries: Mapping[str, Query]
    docs: Mapping[str, Document]

    @classmethod
    def look_up(cls, pool: Pool, queries: Iterable[Query], corpus: Corpus) -> PoolTexts:
        """Look up all texts at once, so that a `DataError` names missing ids before judging starts."""
        known = {query.id: query for query in queries}
        if missing := [topic.id for topic in pool.topics if topic.id not in known]:
            raise DataError(
                f"{len(missing)} of the {len(pool.topics)} topics of the runs, such as "
                f"{', '.join(map(repr, missing[:3]))}, have no query in the collection {corpus.name!r}",
                remedy="Check that the runs belong to this collection, and to this split if it has several",
            )
        return cls(queries=known, docs=fetch_documents(corpus, {doc for topic in pool.topics for doc in topic.docs}))

    def window(self, pending: PendingJudgment) -> Window:
        return Window(self.queries[pending.topic], (self.docs[pending.doc],))


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingPosition:
    """Position in a judging session, counted from 1."""

    #: Position of the topic among the topics with a budget above 0; None if the order chooses among all topics.
    topic: int | None
    topics: int  # number of topics with a budget above 0; number of all topics if the order chooses among them
    document: int  # position of the document among the documents to judge for the topic, or over all topics
    documents: int  # number of documents to judge for the topic, or over all topics


class JudgingSession:
    """A session in which an assessor judges a pool; ``history`` has its judgments, without those that were undone."""

    def __init__(self, journal: JudgmentJournal, pool: Pool, terms: JudgingTerms) -> None:
        self.pool, self.terms = pool, terms
        self.history: list[Judgment] = []
        self._journal = journal
        self._order = open_judging_order(terms.method)
        self._across = isinstance(self._order, SupportsAcross)
        self._walks = self._fresh()
        self._places = {topic.id: index for index, topic in enumerate(pool.topics)}
        for number, line in journal.lines:
            if problem := self._replay(line):
                raise DataError(
                    f"{journal.path}:{number}: {problem}",
                    expected="lines as `rerank qrels judge` wrote them, in their original order",
                    remedy="Correct the line, restore changed files that --method reads, or choose another --out",
                )

    @classmethod
    def open(cls, path: str | Path, pool: Pool, terms: JudgingTerms) -> JudgingSession:
        """Start a session, or resume it from a file. Nothing is written before the first judgment.

        Raises:
            UsageError: The file was written for another pool or with other settings.
            DataError: The file is not a journal, or a line is invalid. An incomplete last line only causes a warning.
            UnknownNameError: The judging order does not exist.
        """
        about = terms.to_dict(pool)
        journal = JudgmentJournal(Path(path), about)
        if changes := describe_changes(journal.about, about):
            raise UsageError(
                f"{path} was started with other settings: {'; '.join(changes)}",
                remedy="Pass the same options and runs to resume, or another --out to start a new session",
            )
        return cls(journal, pool, terms)

    @property
    def left(self) -> int:
        return sum(walk.limit - walk.done for walk in self._walks)

    def next(self) -> PendingJudgment | None:
        """Return the next document to judge, from the first topic that is not complete; None at the end."""
        return next((self._pending(*walk.next) for walk in self._walks if walk.next is not None), None)

    def pending(self, *, excluding: Container[str] = ()) -> list[PendingJudgment]:
        """Return a batch of documents to judge: the next one of each topic with the fewest judgments.

        All topics thus advance at the same pace. If the order chooses among all topics, the batch has one document.
        """
        candidates = [(walk.done, self._pending(*walk.next)) for walk in self._walks if walk.next is not None]
        candidates = [(done, document) for done, document in candidates if document.topic not in excluding]
        least = min((done for done, _ in candidates), default=0)
        return [document for done, document in candidates if done == least]

    def record(self, judgment: Judgment) -> None:
        """Record the judgment of a pending document. It is written to disk before the state of the session changes.

        Raises:
            UsageError: The document is not pending, or the grade is not on the scale.
            StorageError: The file cannot be written.
        """
        problem = self._problem(judgment)
        try:
            Judgment.from_dict(judgment.to_dict(), self.terms.grades)
        except ValueError as error:
            problem = str(error)
        if problem:
            raise UsageError(
                f"The judgment of document {judgment.doc!r} for topic {judgment.topic!r} cannot be recorded: {problem}"
            )
        self._journal.add(judgment.to_dict())
        self._take(judgment)

    def undo(self) -> Judgment | None:
        """Undo and return the last judgment, if any. It stays in the file, and a line that cancels it is added."""
        if not self.history:
            return None
        self._journal.add({"undo": True})
        return self._untake()

    def position(self, pending: PendingJudgment) -> JudgingPosition:
        walk = self._walks[self._number(pending.topic)]
        walks = [other for other in self._walks if other.limit]
        return JudgingPosition(
            topic=None if self._across else walks.index(walk) + 1,
            topics=len(self.pool.topics if self._across else walks),
            document=walk.done + 1,
            documents=walk.limit,
        )

    def qrels(self) -> Qrels:
        """Return the grades as qrels, with topics in the order of the pool. Topics without any grade are omitted."""
        table: dict[str, dict[str, int]] = {topic.id: {} for topic in self.pool.topics}
        for judgment in self.history:
            if judgment.grade is not None:
                table[judgment.topic][judgment.doc] = judgment.grade
        return Qrels({topic: judged for topic, judged in table.items() if judged}, name=str(self._journal.path))

    def to_dict(self) -> dict[str, Any]:
        gaps = [judgment.gap for judgment in self.history]
        return {
            "judged": gaps.count(None),
            "skipped": gaps.count("skipped"),
            "failed": gaps.count("failed"),
            "left": self.left,
            "relevant": sum(map(self._relevant, self.history)),
            "seconds": round(sum(judgment.seconds for judgment in self.history), 3),
        }

    def _fresh(self) -> list[JudgingWalk]:
        return open_walks(self._order, self.pool, self.terms.budget, seed=self.terms.seed)

    def _number(self, topic: str) -> int:
        """Return the index of the walk that yields the documents of a topic; 0 if one walk covers all topics."""
        return 0 if self._across else self._places[topic]

    def _pending(self, topic: int, doc: int) -> PendingJudgment:
        pooled_topic = self.pool.topics[topic]
        return PendingJudgment(pooled_topic.id, pooled_topic.docs[doc])

    def _relevant(self, judgment: Judgment) -> bool:
        return judgment.grade is not None and judgment.grade >= self.terms.relevant

    def _problem(self, judgment: Judgment) -> str:
        """Return the reason why a judgment cannot be recorded; empty if it can be."""
        if judgment.topic not in self._places:
            return f"topic {judgment.topic!r} is not in the pool"
        position = self._walks[self._number(judgment.topic)].next
        if position is None:
            return f"document {judgment.doc!r} of topic {judgment.topic!r} exceeds the budget"
        pending = self._pending(*position)
        if pending != PendingJudgment(judgment.topic, judgment.doc):
            return (
                f"document {judgment.doc!r} of topic {judgment.topic!r} is not the next one: --method "
                f"{self.terms.method} expects document {pending.doc!r} of topic {pending.topic!r}"
            )
        return ""

    def _replay(self, line: Mapping[str, Any]) -> str:
        """Replay a line of the journal. Return a description of the error in the line; empty if there is no error."""
        if line == {"undo": True}:
            return "" if self._untake() else "the undo has no judgment before it"
        try:
            judgment = Judgment.from_dict(line, self.terms.grades)
        except ValueError as error:
            return str(error)
        if not (problem := self._problem(judgment)):
            self._take(judgment)
        return problem

    def _take(self, judgment: Judgment) -> None:
        self._walks[self._number(judgment.topic)].answer(self._relevant(judgment))
        self.history.append(judgment)

    def _untake(self) -> Judgment | None:
        """Remove the last judgment from the history and return it; replay the other judgments of the same walk."""
        if not self.history:
            return None
        last = self.history.pop()
        number = self._number(last.topic)
        walk = self._walks[number] = self._fresh()[number]
        for judgment in self.history:
            if self._number(judgment.topic) == number:
                walk.answer(self._relevant(judgment))
        return last


_FORMAT = "listrank judgments"
_VERSION = 1
#: Line that marks the previous line as incomplete because of a crash. The previous line is then ignored.
_TORN = {"torn": True}


class JudgmentJournal:
    """The append-only file of a session's judgments, in JSON lines. A new file is created with the first line.

    Each line is synced to disk before the next document is shown. A crash may leave the last line incomplete. This is
    detected when the file is opened again; the line is then ignored, and a line that marks it as incomplete is written
    before the next judgment. ``about`` is the first line without format and version, and ``lines`` are the others, as
    pairs of line number (from 1) and JSON object.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self.lines: list[tuple[int, dict[str, Any]]] = []
        #: Bytes that must be written before the next line.
        self._before = b""
        try:
            if (kind := file_kind(path)) not in ("", "file"):
                raise UsageError(f"{path} is a {kind}", expected="the name of a new or existing regular file")
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL character
            raise MissingResourceError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
        self._size = len(data)
        first = _encode({"format": _FORMAT, "version": _VERSION, **about})
        if len(data) < len(first) and first.startswith(data):  # new file, or incomplete first line
            self._before = first[len(data) :]
        else:
            self._read(data)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a JSON object as a line and sync it to disk."""
        data = self._before + _encode({**line, "check": _checksum(line)})
        try:
            with open(self.path, "ab", opener=open_without_links) as file:
                if file.tell() != self._size:
                    raise StorageError(
                        f"{self.path} has changed since it was read: another process writes to it",
                        remedy="Stop the other process, then repeat the same command",
                    )
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not self._size:  # without this, a crash could lose the directory entry of the new file
                sync_folder(self.path.resolve().parent)
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be written: {error.strerror or error}",
                remedy="Free disk space or correct the folder's permissions, then repeat the same command to resume",
            ) from error
        self._size += len(data)
        self._before = b""

    def _read(self, data: bytes) -> None:
        parts = data.split(b"\n")
        is_complete = parts[-1] == b""
        lines = parts[:-1] if is_complete else parts
        rows = [_parse(line) for line in lines]
        about = rows[0]
        if about is None or about.pop("format", None) != _FORMAT:
            raise DataError(
                f"{self.path} exists and is not a file of judgments",
                expected=f'a first line of JSON with "format": "{_FORMAT}"',
                remedy="Choose another --out; this file was not changed",
            )
        if (version := about.pop("version", None)) != _VERSION:
            raise DataError(
                f"{self.path} has version {error_repr(version)} of the format",
                expected=f"version {_VERSION}",
                remedy="Use the version of listrank that wrote the file",
            )
        self.about = about
        if rows[-1] is None:
            warnings.warn(
                f"The last line of {self.path}, number {len(rows)}, is incomplete, probably after a crash; "
                "it is ignored",
                stacklevel=4,
            )
            self._before = (b"" if is_complete else b"\n") + _encode(_TORN)
        elif not is_complete:  # complete except for the newline
            self._before = b"\n"
        followers = [*lines[2:], _encode(_TORN)]  # if there is only one line, the extra item is not used
        for number, (row, following) in enumerate(zip(rows[1:], followers, strict=False), 2):
            if row is not None:
                # lines of older versions, and lines that a person writes, have no checksum
                if row.pop("check", None) not in (None, _checksum(row)):
                    raise DataError(
                        f"{self.path}:{number} was changed after it was written",
                        remedy="Restore the line, or remove its key check to keep the change",
                    )
                self.lines += [(number, row)] if row != _TORN else []
            elif not following or not _encode(_TORN).startswith(following):  # the marker itself may be incomplete
                raise DataError(
                    f"{self.path}:{number} is not a JSON object: "
                    f"{error_repr(lines[number - 1].decode('utf-8', 'replace'))}",
                    expected="one JSON object per line",
                    remedy="Correct the line; the judgments after it are intact",
                )


def _encode(line: Mapping[str, Any]) -> bytes:
    """Encode a JSON object as one line. Unpaired surrogates are kept, because ids may contain them."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _checksum(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode(line)).hexdigest()[:8]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None

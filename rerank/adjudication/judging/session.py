"""Judging that can be left and taken up again: a pool, an order, a budget, and a file that forgets nothing.

The file is the state. To take it up is to walk through the order once more with the judgments in it; to undo is to
walk with one fewer. Knows neither texts nor who judges.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.adjudication.judging.journal import Journal
from rerank.adjudication.judging.judgment import Asked, Judgment
from rerank.adjudication.judging.terms import Terms, differences
from rerank.adjudication.ordering import open_order
from rerank.adjudication.orders.base import SupportsAcross
from rerank.adjudication.pools import Pool
from rerank.adjudication.walking import Lane, lanes_of
from rerank.errors import DataError, UsageError
from rerank.types import Qrels


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far judging is, all counted from 1.

    Attributes:
        topic: The topic's place among those of which something is judged; None where the order goes over all at once.
        topics: How many they are.
        document: The document's place in the budget of the topic, or of all topics.
        documents: That budget.
    """

    topic: int | None
    topics: int
    document: int
    documents: int


class Session:
    """A pool that is being judged. Make it with `Session.open`.

    Attributes:
        pool: What is judged.
        terms: How.
        history: The judgments that count, in the order in which they were made.
    """

    def __init__(self, journal: Journal, pool: Pool, terms: Terms) -> None:
        """Walk as far as the file goes."""
        self.pool, self.terms = pool, terms
        self.history: list[Judgment] = []
        self._journal = journal
        self._order = open_order(terms.method)
        self._across = isinstance(self._order, SupportsAcross)
        self._lanes = self._fresh()
        self._places = {topic.id: at for at, topic in enumerate(pool.topics)}
        for number, line in journal.lines:
            if problem := self._replay(line):
                raise DataError(
                    f"{journal.path}:{number}: {problem}",
                    expected="the lines that `rerank qrels judge` writes, in its order",
                    remedy="Mend the line, or judge into another --out; files that --method reads must be as they were",
                )

    @classmethod
    def open(cls, path: str | Path, pool: Pool, terms: Terms) -> Session:
        """Begin to judge, or go on where a file ends. Nothing is written before the first judgment.

        Args:
            path: The file: JSON lines, the first of which says what is judged.
            pool: What is judged.
            terms: How.

        Raises:
            UsageError: The file was made for another pool or on other terms.
            DataError: It is no such file, or a line of it makes no sense. A last line that was cut off is a warning.
            UnknownNameError: No such order of judging.
        """
        about = terms.to_dict(pool)
        journal = Journal(Path(path), about)
        if found := differences(journal.about, about):
            raise UsageError(
                f"{path} was begun otherwise: {'; '.join(found)}",
                remedy="Give the same options and runs to go on with it, or another --out to begin anew",
            )
        return cls(journal, pool, terms)

    @property
    def left(self) -> int:
        """How many documents of the budget are still to be judged."""
        return sum(lane.limit - lane.done for lane in self._lanes)

    def next(self) -> Asked | None:
        """The next document: of the first topic that has any left, or of the order over all topics."""
        return next((self._asked(*lane.next) for lane in self._lanes if lane.next is not None), None)

    def wanted(self, *, besides: Container[str] = ()) -> list[Asked]:
        """The next document of every topic, of those topics that are least far: what can be asked for together.

        So topics go in step, and after a stop those that were left behind come first. An order over all topics wants
        one document at a time.

        Args:
            besides: Topics that are left out.
        """
        found = [(lane.done, self._asked(*lane.next)) for lane in self._lanes if lane.next is not None]
        found = [(done, asked) for done, asked in found if asked.topic not in besides]
        least = min((done for done, _ in found), default=0)
        return [asked for done, asked in found if done == least]

    def record(self, judgment: Judgment) -> None:
        """Take a judgment of a document that is asked for; it is on the disk before anything else changes.

        Raises:
            UsageError: The document is not asked for now, or the grade is not on the scale.
            StorageError: The file cannot be written.
        """
        problem = self._problem(judgment)
        try:
            Judgment.from_dict(judgment.to_dict(), self.terms.grades)
        except ValueError as error:
            problem = str(error)
        if problem:
            raise UsageError(f"A judgment of document {judgment.doc!r} for topic {judgment.topic!r}: {problem}")
        self._journal.add(judgment.to_dict())
        self._take(judgment)

    def undo(self) -> Judgment | None:
        """Take the last judgment back; the file keeps it, and a line that it does not count.

        Returns:
            The judgment, whose document is asked for again; None if there is none.
        """
        if not self.history:
            return None
        self._journal.add({"undo": True})
        return self._untake()

    def place(self, asked: Asked) -> Place:
        """How far judging is at a document that is asked for."""
        lane = self._lanes[self._number(asked.topic)]
        used = [other for other in self._lanes if other.limit]
        return Place(
            topic=None if self._across else used.index(lane) + 1,
            topics=len(self.pool.topics if self._across else used),
            document=lane.done + 1,
            documents=lane.limit,
        )

    def qrels(self) -> Qrels:
        """The grades that were given, topics in the pool's order; topics without any are left out."""
        table: dict[str, dict[str, int]] = {topic.id: {} for topic in self.pool.topics}
        for judgment in self.history:
            if judgment.grade is not None:
                table[judgment.topic][judgment.doc] = judgment.grade
        return Qrels({topic: judged for topic, judged in table.items() if judged}, name=str(self._journal.path))

    def to_dict(self) -> dict[str, Any]:
        """Counts: documents with a grade, without one, to be judged, relevant; and how long it took in all."""
        gaps = [judgment.gap for judgment in self.history]
        return {
            "judged": gaps.count(None),
            "skipped": gaps.count("skipped"),
            "failed": gaps.count("failed"),
            "left": self.left,
            "relevant": sum(map(self._relevant, self.history)),
            "seconds": round(sum(judgment.seconds for judgment in self.history), 3),
        }

    def _fresh(self) -> list[Lane]:
        """All walks at their beginnings."""
        return lanes_of(self._order, self.pool, self.terms.budget, seed=self.terms.seed)

    def _number(self, topic: str) -> int:
        """Which walk asks for a topic's documents."""
        return 0 if self._across else self._places[topic]

    def _asked(self, topic: int, doc: int) -> Asked:
        found = self.pool.topics[topic]
        return Asked(found.id, found.docs[doc])

    def _relevant(self, judgment: Judgment) -> bool:
        """What the order is told; a document without a grade counts as not relevant there."""
        return judgment.grade is not None and judgment.grade >= self.terms.relevant

    def _problem(self, judgment: Judgment) -> str:
        """Why a judgment cannot come now; empty if it can."""
        if judgment.topic not in self._places:
            return f"topic {judgment.topic!r} is not in the pool"
        wanted = self._lanes[self._number(judgment.topic)].next
        if wanted is None:
            return f"document {judgment.doc!r} of topic {judgment.topic!r} comes after the last of the budget"
        asked = self._asked(*wanted)
        if asked != Asked(judgment.topic, judgment.doc):
            return (
                f"document {judgment.doc!r} of topic {judgment.topic!r} comes where --method {self.terms.method} asks "
                f"for document {asked.doc!r} of topic {asked.topic!r}"
            )
        return ""

    def _replay(self, line: Mapping[str, Any]) -> str:
        """Take in a line of the file; return what is wrong with it, empty if nothing."""
        if line == {"undo": True}:
            return "" if self._untake() else "an undo with nothing before it"
        try:
            judgment = Judgment.from_dict(line, self.terms.grades)
        except ValueError as error:
            return str(error)
        problem = self._problem(judgment)
        if not problem:
            self._take(judgment)
        return problem

    def _take(self, judgment: Judgment) -> None:
        self._lanes[self._number(judgment.topic)].answer(self._relevant(judgment))
        self.history.append(judgment)

    def _untake(self) -> Judgment | None:
        """Walk again with one fewer."""
        if not self.history:
            return None
        last = self.history.pop()
        number = self._number(last.topic)
        lane = self._lanes[number] = self._fresh()[number]
        for judgment in self.history:
            if self._number(judgment.topic) == number:
                lane.answer(self._relevant(judgment))
        return last

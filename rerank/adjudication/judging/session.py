"""Judging sessions that can be interrupted and resumed: a pool, a judging order, a budget and a journal.

The journal holds the complete state. To resume a session, the judging order is replayed with the recorded judgments. To
undo a judgment, the order is replayed without the last judgment.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.adjudication.judging.judging_terms import JudgingTerms, describe_adjudication_setting_differences
from rerank.adjudication.judging.judgment import Judgment, PendingJudgment
from rerank.adjudication.judging.judgment_journal import JudgmentJournal
from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.orders.base import SupportsAcross
from rerank.adjudication.pools import Pool
from rerank.adjudication.walks import JudgingWalk, open_walks
from rerank.errors import DataError, UsageError
from rerank.types import Qrels


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingPosition:
    """Position in a judging session, counted from 1.

    Attributes:
        topic: Position of the topic among the topics with a budget above 0; None if the order chooses among all topics.
        topics: Number of topics with a budget above 0; number of all topics if the order chooses among them.
        document: Position of the document among the documents to judge for the topic, or over all topics.
        documents: Number of documents to judge for the topic, or over all topics.
    """

    topic: int | None
    topics: int
    document: int
    documents: int


class JudgingSession:
    """A session in which an assessor judges a pool. Create it with `JudgingSession.open`.

    Attributes:
        pool: The pool.
        terms: Settings of the session.
        history: The judgments that were not undone, in the order in which they were made.
    """

    def __init__(self, journal: JudgmentJournal, pool: Pool, terms: JudgingTerms) -> None:
        """Open the walks of the judging order and replay the judgments in the journal."""
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

        Args:
            path: The journal, a file of JSON lines with the settings in the first line.
            pool: The pool.
            terms: Settings of the session.

        Raises:
            UsageError: The file was written for another pool or with other settings.
            DataError: The file is not a journal, or a line is invalid. An incomplete last line only causes a warning.
            UnknownNameError: The judging order does not exist.
        """
        about = terms.to_dict(pool)
        journal = JudgmentJournal(Path(path), about)
        if changes := describe_adjudication_setting_differences(journal.about, about):
            raise UsageError(
                f"{path} was started with other settings: {'; '.join(changes)}",
                remedy="Pass the same options and runs to resume, or another --out to start a new session",
            )
        return cls(journal, pool, terms)

    @property
    def left(self) -> int:
        """Number of documents that can still be judged within the budget."""
        return sum(walk.limit - walk.done for walk in self._walks)

    def next(self) -> PendingJudgment | None:
        """Return the next document to judge, from the first topic that is not complete; None at the end.

        If the order chooses among all topics, return the next document of the order.
        """
        return next((self._pending(*walk.next) for walk in self._walks if walk.next is not None), None)

    def pending(self, *, excluding: Container[str] = ()) -> list[PendingJudgment]:
        """Return documents that can be judged in one batch: the next document of each topic with the fewest judgments.

        All topics thus advance at the same pace, and after an interruption the topics with fewer judgments come first.
        If the order chooses among all topics, there is only one document at a time.

        Args:
            excluding: Ids of topics to omit.
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
        """Undo the last judgment. It stays in the file, and a line that cancels it is added.

        Returns:
            The cancelled judgment, whose document is pending again; None if there is no judgment.
        """
        if not self.history:
            return None
        self._journal.add({"undo": True})
        return self._untake()

    def position(self, pending: PendingJudgment) -> JudgingPosition:
        """Return the position of a pending document in the session."""
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
        """Return numbers of graded, skipped, failed, remaining and relevant documents, and the time in seconds."""
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
        """Return new walks of the judging order, before the first judgment."""
        return open_walks(self._order, self.pool, self.terms.budget, seed=self.terms.seed)

    def _number(self, topic: str) -> int:
        """Return the index of the walk that yields the documents of a topic; 0 if one walk covers all topics."""
        return 0 if self._across else self._places[topic]

    def _pending(self, topic: int, doc: int) -> PendingJudgment:
        pooled_topic = self.pool.topics[topic]
        return PendingJudgment(pooled_topic.id, pooled_topic.docs[doc])

    def _relevant(self, judgment: Judgment) -> bool:
        """Return whether a judged document counts as relevant for the judging order; False if it has no grade."""
        return judgment.grade is not None and judgment.grade >= self.terms.relevant

    def _problem(self, judgment: Judgment) -> str:
        """Return the reason why a judgment cannot be recorded, such as an unexpected document; empty if it can be."""
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
        problem = self._problem(judgment)
        if not problem:
            self._take(judgment)
        return problem

    def _take(self, judgment: Judgment) -> None:
        """Add a judgment to the history, and advance the judging order of its topic to the next document."""
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

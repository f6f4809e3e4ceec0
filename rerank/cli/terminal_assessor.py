"""A person who judges at the keyboard: a document is shown, a key is its grade. Knows sessions, not their files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rerank.adjudication.judging.judging_terms import SCALE
from rerank.adjudication.judging.judgment import Judgment, PendingJudgment
from rerank.adjudication.judging.pool_texts import PoolTexts
from rerank.adjudication.judging.session import JudgingSession
from rerank.cli.terminal import END, Keyboard, strip_control_characters

if TYPE_CHECKING:
    from rich.console import Console

#: What the grades mean where they are TREC Deep Learning's.
_MEANINGS = (
    "has nothing to do with the query",
    "is on its topic and does not answer it",
    "answers it in part, unclearly, or among other things",
    "is about the query alone and holds the exact answer",
)
_UNDO, _SKIP, _LEAVE, _HELP = "u", "s", ("q", END), ("?", "h")


@dataclass(frozen=True)
class TerminalAssessor:
    """Everything between a person and a session.

    Attributes:
        session: What is judged.
        texts: What is shown.
        keys: Where keys come from.
        console: Where documents are shown. It is never cleared, so that scrolling back shows what was judged.
    """

    session: JudgingSession
    texts: PoolTexts
    keys: Keyboard
    console: Console

    def judge(self) -> None:
        """Go on until nothing is left or the person leaves. Every judgment is on the disk before the next document."""
        done, left = len(self.session.history), self.session.left
        self._say(f"{done} documents are done, {left} are left. Every key is saved at once.")
        while (asked := self.session.next()) is not None:
            self.keys.forget()  # a key that was pressed before a document is shown says nothing about it
            self._show(asked)
            if not self._answered(asked):
                return
        self._say("Everything in the budget is judged.")

    def _answered(self, asked: PendingJudgment) -> bool:
        """Wait for a key that means something; False if it is to leave."""
        started = time.monotonic()
        grades = {str(grade): grade for grade in self.session.terms.grades}
        while True:
            key = self.keys.press()
            seconds = time.monotonic() - started
            if key in grades:
                self._record(Judgment(topic=asked.topic, doc=asked.doc, grade=grades[key], seconds=seconds), key)
                return True
            if key == _SKIP:
                skipped = Judgment(topic=asked.topic, doc=asked.doc, grade=None, gap="skipped", seconds=seconds)
                self._record(skipped, "cannot tell")
                return True
            if key in _LEAVE:
                return False
            if key == _UNDO and self._undone():
                return True
            if key in _HELP:
                self._say(self._help())
            elif key != _UNDO:
                self._say(f"{_named(key)} is no key here; ? shows the keys")

    def _record(self, judgment: Judgment, said: str) -> None:
        self.session.record(judgment)
        self._say(f"-> {said}")

    def _undone(self) -> bool:
        last = self.session.undo()
        if last is None:
            self._say("There is nothing to undo.")
            return False
        given = "cannot tell" if last.grade is None else f"grade {last.grade}"
        self._say(f"Undone: {strip_control_characters(last.doc)}, {given}. Here it is again.")
        return True

    def _show(self, asked: PendingJudgment) -> None:
        """The query and one document; the query again below a document that is longer than the screen."""
        from rich.rule import Rule
        from rich.text import Text

        window = self.texts.window(asked)
        (doc,) = window.docs
        query = Text(strip_control_characters(f"Query {window.query.id}: {window.query.text}"), style="bold")
        body = Text(strip_control_characters(doc.text).strip("\n") or "(this document has no text)")
        self.console.print()
        self.console.print(Rule(Text(f"{self._progress(asked)}: {strip_control_characters(doc.id)}"), align="left"))
        self.console.print(query)
        self.console.print()
        if doc.title:
            self.console.print(Text(strip_control_characters(doc.title), style="underline"))
        self.console.print(body)
        if len(body.wrap(self.console, self.console.width)) > self.console.height - 6:
            self.console.print()
            self.console.print(query)
        self._say(self._legend())

    def _progress(self, asked: PendingJudgment) -> str:
        place = self.session.position(asked)
        if place.topic is None:
            return f"topic {strip_control_characters(asked.topic)}, document {place.document} of {place.documents} over all topics"
        return f"topic {place.topic} of {place.topics}, document {place.document} of {place.documents}"

    def _legend(self) -> str:
        grades = " ".join(map(str, self.session.terms.grades))
        return f"{grades} = grade, s = cannot tell, u = undo, q = save and leave, ? = help"

    def _help(self) -> str:
        terms = self.session.terms
        lines = [f"From {terms.relevant} on, a grade means relevant."]
        if terms.grades == SCALE:
            lines += [f"  {grade}  the document {meaning}" for grade, meaning in enumerate(_MEANINGS)]
        else:
            lines += [f"  {' '.join(map(str, terms.grades))}  the document's grade, the last one the most relevant"]
        return "\n".join(
            [
                *lines,
                "  s  you cannot tell: it is left out of the judgments",
                "  u  undo: the document before comes back, as often as you like",
                "  q  leave; the same command goes on from here (so do Ctrl-C and Ctrl-D)",
            ]
        )

    def _say(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(text, style="dim"))


def _named(key: str) -> str:
    """A key as a message calls it."""
    if key.isprintable() and not key.isspace():
        return repr(key)
    return {" ": "The space bar", "\n": "Enter", "\r": "Enter", "\t": "Tab", "\x7f": "Backspace"}.get(key, "That")

"""Judging at a terminal: documents are shown one by one, and the assessor presses a key for the grade."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rerank.adjudication.judging.session import SCALE, JudgingSession, Judgment, PendingJudgment, PoolTexts
from rerank.cli.terminal import END, Keyboard
from rerank.terminal_text import strip_terminal_control_characters

if TYPE_CHECKING:
    from rich.console import Console

#: Meanings of the grades of TREC Deep Learning.
_MEANINGS = (
    "has nothing to do with the query",
    "is on the topic of the query but does not answer it",
    "answers the query in part, unclearly, or among other things",
    "is about the query only and contains the exact answer",
)
_UNDO, _SKIP, _LEAVE, _HELP = "u", "s", ("q", END), ("?", "h")


@dataclass(frozen=True)
class TerminalAssessor:
    """The dialogue with a person who judges the documents of a session.

    Attributes:
        session: The judging session.
        texts: Texts of queries and documents.
        keys: The keyboard.
        console: The console that shows documents. It is never cleared, so that the person can scroll back.
    """

    session: JudgingSession
    texts: PoolTexts
    keys: Keyboard
    console: Console

    def judge(self) -> None:
        """Show documents and save each judgment until no document is left or the person quits."""
        done, left = len(self.session.history), self.session.left
        self._say(f"{done} documents are judged, {left} remain. Each judgment is saved immediately.")
        while (pending := self.session.next()) is not None:
            self.keys.forget()  # a key pressed before the document is shown is not a judgment of it
            self._show(pending)
            if not self._judge(pending):
                return
        self._say("All documents of the budget are judged.")

    def _judge(self, pending: PendingJudgment) -> bool:
        """Read keys until the document is judged or skipped, or the last judgment is undone. Return False on quit."""
        started = time.monotonic()
        grades = {str(grade): grade for grade in self.session.terms.grades}
        while True:
            key = self.keys.press()
            seconds = time.monotonic() - started
            if key in grades:
                self._record(Judgment(topic=pending.topic, doc=pending.doc, grade=grades[key], seconds=seconds), key)
                return True
            if key == _SKIP:
                skipped = Judgment(topic=pending.topic, doc=pending.doc, grade=None, gap="skipped", seconds=seconds)
                self._record(skipped, "cannot tell")
                return True
            if key in _LEAVE:
                return False
            if key == _UNDO and self._undo():
                return True
            if key in _HELP:
                self._say(self._help())
            elif key != _UNDO:
                self._say(f"{_keyboard_key_name(key)} has no function; ? shows the keys")

    def _record(self, judgment: Judgment, label: str) -> None:
        self.session.record(judgment)
        self._say(f"-> {label}")

    def _undo(self) -> bool:
        """Undo the last judgment. Return False if there is no judgment to undo."""
        last = self.session.undo()
        if last is None:
            self._say("There is nothing to undo.")
            return False
        label = "cannot tell" if last.grade is None else f"grade {last.grade}"
        self._say(f"Undone: {strip_terminal_control_characters(last.doc)}, {label}. The document is shown again.")
        return True

    def _show(self, pending: PendingJudgment) -> None:
        """Show the query and one document. If the document is longer than the screen, show the query again below it."""
        from rich.rule import Rule
        from rich.text import Text

        window = self.texts.window(pending)
        (doc,) = window.docs
        query = Text(strip_terminal_control_characters(f"Query {window.query.id}: {window.query.text}"), style="bold")
        body = Text(strip_terminal_control_characters(doc.text).strip("\n") or "(this document has no text)")
        self.console.print()
        self.console.print(
            Rule(Text(f"{self._progress(pending)}: {strip_terminal_control_characters(doc.id)}"), align="left")
        )
        self.console.print(query)
        self.console.print()
        if doc.title:
            self.console.print(Text(strip_terminal_control_characters(doc.title), style="underline"))
        self.console.print(body)
        if len(body.wrap(self.console, self.console.width)) > self.console.height - 6:
            self.console.print()
            self.console.print(query)
        self._say(self._legend())

    def _progress(self, pending: PendingJudgment) -> str:
        place = self.session.position(pending)
        if place.topic is None:
            topic = strip_terminal_control_characters(pending.topic)
            return f"topic {topic}, document {place.document} of {place.documents} over all topics"
        return f"topic {place.topic} of {place.topics}, document {place.document} of {place.documents}"

    def _legend(self) -> str:
        grades = " ".join(map(str, self.session.terms.grades))
        return f"{grades} = grade, s = cannot tell, u = undo, q = save and quit, ? = help"

    def _help(self) -> str:
        terms = self.session.terms
        lines = [f"Grades of {terms.relevant} or higher mean relevant."]
        if terms.grades == SCALE:
            lines += [f"  {grade}  the document {meaning}" for grade, meaning in enumerate(_MEANINGS)]
        else:
            lines += [
                f"  {' '.join(map(str, terms.grades))}  grade of the document; the last grade is the most relevant"
            ]
        return "\n".join(
            [
                *lines,
                "  s  skip the document if you cannot tell; it gets no judgment",
                "  u  undo the previous judgment; may be repeated",
                "  q  quit, like Ctrl-C and Ctrl-D; the same command continues from here",
            ]
        )

    def _say(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(text, style="dim"))


def _keyboard_key_name(key: str) -> str:
    """Return the name of a key for messages."""
    if key.isprintable() and not key.isspace():
        return repr(key)
    return {" ": "The space bar", "\n": "Enter", "\r": "Enter", "\t": "Tab", "\x7f": "Backspace"}.get(key, "That")

"""One judgment, as a line of a file holds it. Knows no order and no budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rerank.errors import shorten

#: Why a document has no grade: its judge cannot tell, or answered without one.
Gap = Literal["skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A document that is to be judged for a topic, both by their ids."""

    topic: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """One line of the file.

    Attributes:
        topic: The topic's id.
        doc: The document's id.
        grade: The grade; None where there is none.
        gap: Why there is none.
        judge: Who gave it.
        seconds: How long it took.
        reply: What a model wrote; empty for people and where its answer was numbers.
        detail: What went wrong, in words, where a judge failed.
    """

    topic: str
    doc: str
    grade: int | None
    gap: Gap | None = None
    judge: str = "person"
    seconds: float = 0.0
    reply: str = ""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        line: dict[str, Any] = {"topic": self.topic, "doc": self.doc, "grade": self.grade, "judge": self.judge}
        line["seconds"] = round(self.seconds, 3)
        more = {"gap": self.gap, "reply": self.reply, "detail": self.detail}
        return line | {key: value for key, value in more.items() if value}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any], grades: tuple[int, ...]) -> Judgment:
        """Read a line.

        Raises:
            ValueError: It is no judgment on that scale; the message says why.
        """
        topic, doc, grade, gap = (line.get(key) for key in ("topic", "doc", "grade", "gap"))
        if not isinstance(topic, str) or not isinstance(doc, str):
            raise ValueError("neither a judgment, with a topic and a doc, nor an undo")
        if grade is None and gap not in ("skipped", "failed"):
            raise ValueError('no grade, and no "gap" that says why')
        if grade is not None and (type(grade) is not int or grade not in grades or gap is not None):
            raise ValueError(f"grade {shorten(grade)} where {', '.join(map(str, grades))} can be given")
        seconds = line.get("seconds", 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise ValueError(f"seconds {shorten(seconds)}")
        words = {key: str(line.get(key, "")) for key in ("judge", "reply", "detail")}
        return cls(topic=topic, doc=doc, grade=grade, gap=gap, seconds=seconds, **words)

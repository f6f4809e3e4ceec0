"""Relevance judgments, and their form as lines of the judgment file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rerank.errors import error_repr

#: Why a document has no grade: the assessor could not decide, or a model's reply contained none.
Gap = Literal["skipped", "failed"]


@dataclass(frozen=True, slots=True)
class PendingJudgment:
    """A document to judge for a topic, both by id."""

    topic: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """A judgment of one document for one topic.

    Attributes:
        topic: Topic id.
        doc: Document id.
        grade: The grade; None if there is none.
        gap: Why there is no grade.
        judge: Name of the assessor.
        seconds: Time that the judgment took.
        reply: Generated text of a model; empty for people and if grades were compared by likelihood.
        detail: Error message of a failed judgment.
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
        """Return the JSON object that is written to the file."""
        line: dict[str, Any] = {"topic": self.topic, "doc": self.doc, "grade": self.grade, "judge": self.judge}
        line["seconds"] = round(self.seconds, 3)
        more = {"gap": self.gap, "reply": self.reply, "detail": self.detail}
        return line | {key: value for key, value in more.items() if value}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any], grades: tuple[int, ...]) -> Judgment:
        """Read a judgment from a JSON object.

        Raises:
            ValueError: The object is not a judgment on that scale; the message says why.
        """
        topic, doc, grade, gap = (line.get(key) for key in ("topic", "doc", "grade", "gap"))
        if not isinstance(topic, str) or not isinstance(doc, str):
            raise ValueError('neither a judgment with "topic" and "doc" nor an undo')
        if grade is None and gap not in ("skipped", "failed"):
            raise ValueError('no grade, and no "gap" that gives the reason')
        if grade is not None and (type(grade) is not int or grade not in grades or gap is not None):
            raise ValueError(f"grade {error_repr(grade)} is not one of {', '.join(map(str, grades))}")
        seconds = line.get("seconds", 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise ValueError(f"seconds {error_repr(seconds)} is not a number")
        words = {key: str(line.get(key, "")) for key in ("judge", "reply", "detail")}
        return cls(topic=topic, doc=doc, grade=grade, gap=gap, seconds=seconds, **words)

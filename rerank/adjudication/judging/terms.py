"""What is judged, in which order and how far: all that has to be the same when judging goes on. Knows no file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rerank.adjudication.budgets import Budget
from rerank.adjudication.pools import DEPTH, Pool
from rerank.errors import UsageError

#: TREC Deep Learning's grades: unrelated; on the topic; answers in part or among other things; about the query alone.
SCALE = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a pool is judged.

    Attributes:
        method: Selector of the order of judging.
        budget: How much is judged.
        seed: Of the chance in the order.
        depth: Of the pool.
        relevant: The lowest grade that tells the order "relevant".
        grades: What may be given: digits, ascending, for each is one key.
        judge: Who judges, as names and values: ``{"judge": "person"}``, or ``llm`` with its model and prompt.

    Raises:
        UsageError: Grades that are no scale, or all or none of them relevant.
    """

    method: str
    budget: Budget
    seed: int = 0
    depth: int = DEPTH
    relevant: int = 1
    grades: tuple[int, ...] = SCALE
    judge: Mapping[str, str] = field(default_factory=lambda: {"judge": "person"})

    def __post_init__(self) -> None:
        """Check the scale."""
        shown = ",".join(map(str, self.grades))
        ascending = list(self.grades) == sorted(set(self.grades))
        if len(self.grades) < 2 or not ascending or not all(0 <= grade <= 9 for grade in self.grades):
            raise UsageError(
                f"The grades {shown or '(none)'}",
                expected="two or more digits, ascending, each once, as in --grades 0,1,2,3",
            )
        if not self.grades[0] < self.relevant <= self.grades[-1]:
            raise UsageError(
                f"Relevant from grade {self.relevant}, with the grades {shown}",
                expected=f"{self.grades[0] + 1} to {self.grades[-1]}, so that some are relevant and some are not",
                remedy="Say it with --relevant",
            )

    def to_dict(self, pool: Pool) -> dict[str, Any]:
        """Everything that decides which document is asked for next, as JSON."""
        return {
            "method": self.method,
            "seed": self.seed,
            "budget": str(self.budget),
            "depth": self.depth,
            "relevant": self.relevant,
            "grades": list(self.grades),
            "pool": fingerprint(pool),
            **self.judge,
        }


def parse_grades(text: str) -> tuple[int, ...]:
    """Read ``0,1,2,3``.

    Raises:
        UsageError: Something else than digits between commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"{text!r} as grades", expected="digits between commas, as in --grades 0,1,2,3")
    return tuple(map(int, parts))


def fingerprint(pool: Pool) -> str:
    """Hex SHA-256 of a pool: its systems, topics, documents and their ranks."""
    whole = hashlib.sha256(json.dumps(pool.systems).encode())
    for topic in pool.topics:
        about = [topic.id, topic.docs, topic.lengths.tolist(), topic.union]
        whole.update(json.dumps(about).encode())
        whole.update(np.ascontiguousarray(topic.ranks, dtype="<i8").tobytes())
    return whole.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What is not the same in two sets of terms, in words.

    >>> differences({"seed": 0, "depth": 100}, {"seed": 1, "depth": 100})
    ['--seed 0 there, 1 now']
    """
    found = []
    for key in dict.fromkeys([*here, *there]):
        old, new = there.get(key), here.get(key)
        if old != new and key == "pool":
            found.append("another pool there (other runs, or other documents in them)")
        elif old != new:
            found.append(f"--{key} {_shown(old)} there, {_shown(new)} now")
    return found


def _shown(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return "(none)" if value is None else str(value)

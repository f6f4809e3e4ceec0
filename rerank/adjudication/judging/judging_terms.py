"""Settings of a judging session that determine which document is judged next.

These settings must not change when a session is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rerank.adjudication.pools import DEPTH, Pool
from rerank.adjudication.walks import AdjudicationBudget
from rerank.errors import UsageError

#: Grades of TREC Deep Learning: irrelevant, related, highly relevant, perfectly relevant.
SCALE = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class JudgingTerms:
    """Settings of a judging session, which must be the same when it is resumed.

    Attributes:
        method: Selector of the judging order.
        budget: Judging budget.
        seed: Seed for stochastic orders.
        depth: Pool depth.
        relevant: Lowest grade that counts as relevant for the judging order.
        grades: All grades of the scale, as digits in ascending order. A person enters a grade with a single key.
        judge: Description of the assessor: ``{"judge": "person"}``, or ``llm`` with additional keys for the model and
            the prompt.

    Raises:
        UsageError: The grades are not different digits in ascending order, or all or none of them are relevant.
    """

    method: str
    budget: AdjudicationBudget
    seed: int = 0
    depth: int = DEPTH
    relevant: int = 1
    grades: tuple[int, ...] = SCALE
    judge: Mapping[str, str] = field(default_factory=lambda: {"judge": "person"})

    def __post_init__(self) -> None:
        """Check that the grades are digits in ascending order, and that some but not all are relevant."""
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
            "pool": fingerprint_of_pool(pool),
            **self.judge,
        }


def parse_judging_grades(text: str) -> tuple[int, ...]:
    """Parse the value of ``--grades``, such as ``0,1,2,3``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--grades is {text!r}", expected="digits separated by commas, as in --grades 0,1,2,3")
    return tuple(map(int, parts))


def fingerprint_of_pool(pool: Pool) -> str:
    """Return the hexadecimal SHA-256 hash of a pool's systems, topics, documents and ranks, to detect another pool."""
    digest = hashlib.sha256(json.dumps(pool.systems).encode())
    for topic in pool.topics:
        contents = [topic.id, topic.docs, topic.lengths.tolist(), topic.union]
        digest.update(json.dumps(contents).encode())
        digest.update(np.ascontiguousarray(topic.ranks, dtype="<i8").tobytes())
    return digest.hexdigest()


def describe_adjudication_setting_differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Describe the differences between the settings stored in a file and the current settings.

    Examples:
        >>> describe_adjudication_setting_differences({"seed": 0, "depth": 100}, {"seed": 1, "depth": 100})
        ['--seed is 0 in the file and 1 now']
    """
    differences = []
    for key in dict.fromkeys([*current, *stored]):
        old, new = stored.get(key), current.get(key)
        if old != new and key == "pool":
            differences.append("the pool differs (other runs, or other documents in them)")
        elif old != new:
            stored_text, current_text = map(_format_adjudication_setting, (old, new))
            differences.append(f"--{key} is {stored_text} in the file and {current_text} now")
    return differences


def _format_adjudication_setting(value: object) -> str:
    """Format the value of a setting for a message."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return "(none)" if value is None else str(value)

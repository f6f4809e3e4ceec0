"""Data type that represents one way to interpret a reply as a ranking."""

from __future__ import annotations

from dataclasses import dataclass

#: Strengths of an interpretation: joined by ``>``, a list, mentions in running text. A larger strength is preferred.
CHAIN, LISTED, MENTIONED = 3, 2, 1


@dataclass(frozen=True, slots=True)
class Interpretation:
    """One way to interpret a reply as a ranking.

    Attributes:
        numbers: Identifiers as written, best first, including duplicate and unknown identifiers.
        strength: How clearly the reply states an order: `CHAIN`, `LISTED` or `MENTIONED`.
        form: Description of the form in which the ranking is written, for `ParsedReply.detail`.
        position: Position in the reply, used to prefer later interpretations.
    """

    numbers: tuple[int, ...]
    strength: int
    form: str
    position: int

    def distinct(self, count: int) -> int:
        """Return how many different passages of ``1 .. count`` the interpretation contains."""
        return len({number for number in self.numbers if 1 <= number <= count})

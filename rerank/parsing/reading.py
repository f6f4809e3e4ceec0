"""What a reading is: one way to understand a reply. Knows neither texts nor how readings are found."""

from __future__ import annotations

from dataclasses import dataclass

#: Joined by ``>``; a list; mentions in passing. The stronger one is believed.
CHAIN, LISTED, MENTIONED = 3, 2, 1


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a reply.

    Attributes:
        numbers: Identifiers as said, best first, repeats and foreign ones among them.
        strength: `CHAIN`, `LISTED` or `MENTIONED`.
        form: How it was written, in words.
        at: Where it stands in the reply; larger is later.
    """

    numbers: tuple[int, ...]
    strength: int
    form: str
    at: int

    def distinct(self, count: int) -> int:
        """How many different passages of ``1 .. count`` it names."""
        return len({number for number in self.numbers if 1 <= number <= count})

"""Comparisons of the same runs on several measures, as one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank.evaluation.comparison_report import Comparison
from rerank.io.table_formats import TableReport


@dataclass(frozen=True, slots=True)
class ComparisonSet:
    """One comparison per measure.

    Attributes:
        comparisons: The comparisons, at least one.
    """

    comparisons: tuple[Comparison, ...]

    def with_notes(self, notes: Sequence[str]) -> ComparisonSet:
        """Return a copy with further notes on the runs, which are shown only with the first measure."""
        first, *rest = self.comparisons
        return ComparisonSet((replace(first, notes=(*first.notes, *notes)), *rest))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank compare``: one comparison, or several in a list ``comparisons``."""
        if len(self.comparisons) == 1:
            return self.comparisons[0].to_dict()
        first = self.comparisons[0].family.to_dict()
        measures = [comparison.measure for comparison in self.comparisons]
        return {
            "family": {**first, "measures": measures},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "notes": list(self.notes()),
        }

    def notes(self) -> dict[str, None]:
        """Return the notes of all comparisons in order, as dictionary keys, which removes repetitions."""
        return dict.fromkeys(note for comparison in self.comparisons for note in comparison.notes)

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Yield one row per measure and pair, for formats with one line per row."""
        for comparison in self.comparisons:
            for pair in comparison.to_dict()["pairs"]:
                yield {"measure": comparison.measure, **pair}

    def reports(self) -> list[TableReport]:
        """Return the tables of the comparisons, one report per measure."""
        return [comparison.tables() for comparison in self.comparisons]

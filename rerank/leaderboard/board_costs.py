"""Costs of runs for the axes of cost plots: dollars, tokens and seconds per query, and the size of the model."""

from __future__ import annotations

from rerank.leaderboard.entries import Entry

#: Types of cost: key, axis label, column header, and factor that multiplies the value.
COSTS = (
    ("cost", "US dollars per 1,000 queries", "$ / 1,000 q.", 1000.0),
    ("tokens", "tokens per query", "tokens / q.", 1.0),
    ("seconds", "seconds per query", "s / q.", 1.0),
    ("parameters", "billions of parameters of the model", "size, 10⁹", 1e-9),
)


def board_cost_of_run(entry: Entry, kind: str) -> float | None:
    """Return one type of cost of a run, in the unit of the plot axis; None if the cost is unknown."""
    total = getattr(entry.card, kind)
    value = total if kind == "parameters" else entry.per_query(total)
    factor = next(times for key, _, _, times in COSTS if key == kind)
    return None if value is None else value * factor

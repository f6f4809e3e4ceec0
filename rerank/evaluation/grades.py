"""What to know of judgments before one reads a measure: which grade counts, what it gains, whether any is there.

Words only: no measure is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable

from rerank.evaluation.measures import is_binary, parse_measures
from rerank.types import Qrels, Run

_GAINS = {"log2": "grade", "exp-log2": "2^grade - 1"}


def reading(name: str) -> str:
    """How one measure reads grades; empty where it reads none, or where the program that computes it decides.

    Raises:
        UsageError: It is not the name of one measure.
    """
    (measure,) = parse_measures([name])
    if measure.NAME == "nDCG":
        mapped = ", ".join(f"{grade} counts {gain}" for grade, gain in sorted(measure.params.get("gains", {}).items()))
        return f"gain: {_GAINS[measure['dcg']]}{mapped and f' ({mapped})'}, discount: log2(rank + 1)"
    return f"relevant: grade >= {measure['rel']}" if is_binary(measure) else ""


def grade_note(qrels: Qrels, names: Iterable[str]) -> str:
    """What to beware of where judgments are graded and the name of a binary measure does not say which grade counts.

    Args:
        qrels: The judgments.
        names: Measures, as ir_measures prints them.

    Returns:
        One or two sentences, or nothing where there is nothing to beware of.
    """
    silent = [name for name in names if is_binary(parse_measures([name])[0]) and "rel=" not in name]
    highest = max((grade for judged in qrels.values() for grade in judged.values()), default=0)
    if not silent or highest < 2:
        return ""
    (marked,) = parse_measures([silent[0]], relevant=2)
    return (
        f"{', '.join(silent)}: grades from 1 count as relevant, and these judgments go up to {highest}. "
        f"TREC Deep Learning counts from 2: {marked}."
    )


def overlap_note(qrels: Qrels, run: Run) -> str:
    """What to beware of where none of a run's documents is judged, though its queries are; else nothing."""
    shared = [query for query, ranking in run.items() if query in qrels and len(ranking)]
    if not shared or any(doc in qrels[query] for query in shared for doc in run[query].doc_ids):
        return ""
    return f"No document of run {run.name!r} is judged in {qrels.name}: are these judgments of another collection?"

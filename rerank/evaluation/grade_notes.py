"""Descriptions of how measures use relevance grades, and warnings about likely mistakes."""

from __future__ import annotations

from collections.abc import Iterable

from rerank.evaluation.measures import is_binary_measure, parse_measures
from rerank.types import NOT_JUDGED, UNJUDGED, Qrels, Run

_GAINS = {"log2": "grade", "exp-log2": "2^grade - 1"}


def describe_grade_use(name: str) -> str:
    """Describe how a measure uses grades, such as ``relevant: grade >= 2``.

    Returns:
        The description; empty if the measure does not use grades, or if an external program decides how they are used.
    """
    (measure,) = parse_measures([name])
    if measure.NAME == "nDCG":
        mapped = ", ".join(f"{grade} counts {gain}" for grade, gain in sorted(measure.params.get("gains", {}).items()))
        return f"gain: {_GAINS[measure['dcg']]}{mapped and f' ({mapped})'}, discount: log2(rank + 1)"
    return f"relevant: grade >= {measure['rel']}" if is_binary_measure(measure) else ""


def measure_grade_note(qrels: Qrels, names: Iterable[str]) -> str:
    """Return a warning if judgments are graded and a binary measure does not specify the lowest relevant grade.

    Args:
        qrels: The relevance judgments.
        names: Names of the measures, as ir_measures prints them.

    Returns:
        The warning, one or two sentences; empty if there is nothing to warn about.
    """
    unspecified = [name for name in names if is_binary_measure(parse_measures([name])[0]) and "rel=" not in name]
    highest = max((grade for judged in qrels.values() for grade in judged.values()), default=0)
    if not unspecified or highest < 2:
        return ""
    (example,) = parse_measures([unspecified[0]], relevant=2)
    return (
        f"{', '.join(unspecified)}: grades from 1 count as relevant, and these judgments have grades up to "
        f"{highest}. TREC Deep Learning counts from 2: {example}."
    )


def relevance_threshold_note(qrels: Qrels, names: Iterable[str], relevant: int = 1) -> str:
    """Return a warning if a lowest relevant grade is above all grades in the judgments; otherwise an empty string.

    No document then counts as relevant, and binary measures score 0.

    Args:
        qrels: The relevance judgments.
        names: Names of the measures, as ir_measures prints them.
        relevant: A further lowest relevant grade to check, in addition to those of the measures.
    """
    highest = max((grade for judged in qrels.values() for grade in judged.values()), default=0)
    thresholds = [measure["rel"] for measure in parse_measures(names) if is_binary_measure(measure)]
    if (lowest := max([relevant, *thresholds])) <= highest:
        return ""
    return f"No document in {qrels.name} is relevant at grade {lowest} or higher: the highest grade is {highest}."


def evaluation_overlap_note(qrels: Qrels, run: Run) -> str:
    """Return a warning if the run has judged queries but no judged document; otherwise an empty string."""
    is_shared = False
    for query, ranking in run.items():
        if query in qrels and len(ranking):
            is_shared = True
            if any(qrels[query].get(doc, UNJUDGED) not in NOT_JUDGED for doc in ranking.doc_ids):
                return ""
    if not is_shared:
        return ""
    return f"No document of run {run.name!r} is judged in {qrels.name}. Check that both use the same collection."

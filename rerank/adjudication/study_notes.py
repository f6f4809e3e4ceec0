"""Notes for the reader: caveats about studies and about comparisons of judgments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rerank.adjudication.pools import Pool
from rerank.adjudication.significance_verdicts import Procedure
from rerank.adjudication.study_results import StudyCell
from rerank.evaluation import ScoreMatrix
from rerank.evaluation.pairwise_decisions import list_caveats_of_test
from rerank.types import Qrels

#: A study with fewer pairs of systems than this gets a note.
FEW_PAIRS = 10
#: Largest number of examples in one note.
_NAMED = 4


def note_study_tests(matrices: Iterable[ScoreMatrix], procedures: Sequence[Procedure], alpha: float) -> Iterator[str]:
    """Yield reasons to doubt a test (`list_caveats_of_test`), and a warning if there are few pairs of systems."""
    pairs = 0
    for matrix in matrices:
        pairs = len(matrix.systems) * (len(matrix.systems) - 1) // 2
        for procedure in procedures:
            yield from list_caveats_of_test(matrix, procedure.significance_test, procedure.correction, alpha)
    if pairs < FEW_PAIRS:
        yield f"Only {pairs} {'pair' if pairs == 1 else 'pairs'} of systems: fractions of pairs are unreliable."


def note_study_pool(
    pool: Pool, qrels: Qrels, whole: Sequence[StudyCell], *, depth: int, relevant: int
) -> Iterator[str]:
    """Yield caveats about judged documents outside the pool, which no method can judge.

    Args:
        pool: The pool.
        qrels: Gold judgments.
        whole: Results with the whole pool judged, for each measure and procedure.
        depth: Pool depth.
        relevant: Lowest grade that counts as relevant.
    """
    if empty := len(qrels) - len(pool.topics):
        yield f"{empty} of {len(qrels)} topics have no document in the pool; all systems score 0 on them."
    pooled = {topic.id: set(topic.docs) for topic in pool.topics}
    outside = [
        grade for topic, judged in qrels.items() for doc, grade in judged.items() if doc not in pooled.get(topic, ())
    ]
    if not outside:
        return
    relevant_outside = sum(grade >= relevant for grade in outside)
    numbered = [(cell, cell.numbers()) for cell in whole]
    incomplete = [
        f"{cell.measure}, {cell.procedure}: {_format_study_share(numbers)}"
        for cell, numbers in numbered
        if not numbers["precision"] == numbers["recall"] == 1
    ]
    tail = f" Even the whole pool differs from gold ({'; '.join(incomplete[:_NAMED])})." if incomplete else ""
    yield (
        f"Gold judges {len(outside)} documents ({relevant_outside} of them relevant) outside the pool of depth "
        f"{depth}; no method can judge them.{tail}"
    )


def note_study_budgets(cells: Iterable[StudyCell], topics: int) -> Iterator[str]:
    """Yield a single warning that lists the budgets that leave topics without judgments, if there are any."""
    cases = dict.fromkeys(
        f"{cell.method} {cell.budget} ({topics - cell.topics} of {topics})" for cell in cells if cell.topics < topics
    )
    if cases:
        more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
        yield (
            "Topics without judged documents score 0 for every system and count in the tests: "
            f"{', '.join(list(cases)[:_NAMED])}{more}."
        )


def _format_study_share(numbers: dict[str, float | None]) -> str:
    """Format precision and recall of a result for a note; a dash if undefined."""
    parts = (f"{name} {'-' if (v := numbers[name]) is None else format(v, '.3f')}" for name in ("precision", "recall"))
    return ", ".join(parts)

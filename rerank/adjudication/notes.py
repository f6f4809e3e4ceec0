"""What a reader must know before believing a study or a comparison of judgments, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rerank.adjudication.pools import Pool
from rerank.adjudication.results import Cell
from rerank.adjudication.verdicts import Procedure
from rerank.evaluation import Matrix
from rerank.evaluation.grades import grade_note
from rerank.evaluation.pairs import reservations
from rerank.types import Qrels

#: With fewer pairs of systems than this a note says so.
FEW_PAIRS = 10
#: Up to so many cases are named in one note.
_NAMED = 4


def about_tests(matrices: Iterable[Matrix], procedures: Sequence[Procedure], alpha: float) -> Iterator[str]:
    """About the tests: see `rerank.evaluation.pairs.reservations`; and about few pairs."""
    pairs = 0
    for matrix in matrices:
        pairs = len(matrix.systems) * (len(matrix.systems) - 1) // 2
        for procedure in procedures:
            yield from reservations(matrix, procedure.opened, procedure.correction, alpha)
    if pairs < FEW_PAIRS:
        yield f"Only {pairs} {'pair' if pairs == 1 else 'pairs'} of systems: shares of them mean little."


def about_grades(qrels: Qrels, measures: Iterable[str], relevant: int) -> Iterator[str]:
    """About the lowest grade that counts."""
    if told := grade_note(qrels, measures):
        yield told
    highest = max((grade for judged in qrels.values() for grade in judged.values()), default=0)
    if relevant > highest:
        yield f"No grade in {qrels.name} reaches {relevant}, where relevance begins: the highest is {highest}."


def about_pool(pool: Pool, qrels: Qrels, whole: Sequence[Cell], *, depth: int, relevant: int) -> Iterator[str]:
    """About what gold judges and no method can.

    Args:
        pool: What is judged.
        qrels: Gold.
        whole: The cells of the whole pool.
        depth: Of the pool.
        relevant: The lowest grade that counts as relevant.
    """
    if empty := len(qrels) - len(pool.topics):
        yield f"{empty} of {len(qrels)} topics have no document in the pool; there all systems score 0, which counts."
    pooled = {topic.id: set(topic.docs) for topic in pool.topics}
    outside = [g for topic, judged in qrels.items() for doc, g in judged.items() if doc not in pooled.get(topic, ())]
    if not outside:
        return
    good = sum(grade >= relevant for grade in outside)
    known = [(cell, cell.numbers()) for cell in whole]
    short = [f"{c.measure}, {c.procedure}: {_share(n)}" for c, n in known if not n["precision"] == n["recall"] == 1]
    tail = f" Even the whole pool is not gold ({'; '.join(short[:_NAMED])})." if short else ""
    yield (
        f"Gold judges {len(outside)} documents ({good} of them relevant) that no run has in its first {depth}: "
        f"no method can judge them.{tail}"
    )


def about_budgets(cells: Iterable[Cell], topics: int) -> Iterator[str]:
    """About budgets that leave topics without any judgment."""
    found = dict.fromkeys(
        f"{cell.method} {cell.budget} ({topics - cell.topics} of {topics})" for cell in cells if cell.topics < topics
    )
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        yield (
            "Topics on which nothing is judged score 0 for every system, and count in the tests: "
            f"{', '.join(list(found)[:_NAMED])}{more}."
        )


def _share(numbers: dict[str, float | None]) -> str:
    said = (f"{name} {'-' if (v := numbers[name]) is None else format(v, '.3f')}" for name in ("precision", "recall"))
    return ", ".join(said)

"""The tables that report what a default is worth, over scores that `search.py` and this script store.

    python tables.py --work work --data FOLDER final --system untrained@.5 --system base-n800-s1@.25
    python tables.py --work work --data FOLDER lists --system untrained@.5

`final` ranks BM25's first 100 of TREC DL 2019 and of Cranfield's even-numbered queries, which chose nothing, and
compares each system with BM25 and with the first system. `lists` ranks the first 100 of every first stage, and compares
each with its own order; of its queries, those of DL21 have chosen adapters and their weights. Half of Cranfield's
even-numbered queries share relevant documents with odd-numbered ones, so only DL19 is another domain.

A system is NAME[+NAME]@WEIGHT: adapters in work/adapters (or `untrained`, or `smollm2-135m-attention`), whose z-scores
are averaged, and the weight of the first stage's z-score.

Tests are two-sided paired t-tests; Holm's correction is over all tests of the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lists import EVEN, STAGES, Lists, ListSource
from scores import compute_scores, order_by_scores
from search import MEASURE, adapter_of

from rerank.evaluation import compare_runs
from rerank.evaluation.judgment_coverage import cover_runs_by_judgments
from rerank.evaluation.significance.base.paired_tests import holm
from rerank.types import Run

DEPTH = 100


@dataclass(frozen=True)
class Row:
    """A system on some lists, compared with a baseline."""

    lists: str
    system: str
    baseline: str
    value: float
    judged: float
    difference: float
    low: float
    high: float
    p: float
    corrected: float = 1.0

    def __str__(self) -> str:
        """Return the row of a Markdown table."""
        interval = f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        values = f"{self.value:.4f} | {self.judged:.3f} | {interval} | {self.p:.2g} | {self.corrected:.2g}"
        return f"| {self.lists} | {self.system} | {self.baseline} | {values} |"


def rank(system: str, lists: Lists, collection: str, stage: str, work: Path) -> Run:
    """Return the order of a system, NAME[+NAME]@WEIGHT."""
    names, _, weight = system.partition("@")
    judges = [
        compute_scores(
            work / "scores" / name / f"{collection}.sqlite", f"{stage}-{DEPTH}", lists.run, adapter_of(name, work)
        )
        for name in names.split("+")
    ]
    run = order_by_scores(lists.run, judges, float(weight))
    return Run(run.values(), name=system)


def compare(name: str, lists: Lists, systems: Sequence[Run], baseline: Run) -> Iterator[Row]:
    """Yield one row per system."""
    for system in systems:
        comparison = compare_runs(lists.qrels, [system, baseline], MEASURE, relevant=lists.relevant)
        (coverage,), _ = cover_runs_by_judgments(lists.qrels, [system], [MEASURE], bounds=False)
        (pair,) = comparison.pairs
        yield Row(
            lists=name,
            system=system.name,
            baseline=baseline.name,
            value=comparison.runs[0].mean,
            judged=coverage.judged[MEASURE],
            difference=pair.difference,
            low=pair.low,
            high=pair.high,
            p=pair.p,
        )


def final_rows(systems: Sequence[str], source: ListSource, work: Path) -> Iterator[Row]:
    """Yield the comparisons with BM25, then those with the first system, on the two collections that chose nothing."""
    for collection, queries in (("DL19", frozenset[str]()), ("Cranfield", EVEN)):
        lists = source.lists(collection, "BM25", DEPTH, queries)
        runs = [rank(system, lists, collection, "BM25", work) for system in systems]
        yield from compare(collection, lists, runs, lists.run)
        yield from compare(collection, lists, runs[1:], runs[0])


def list_rows(systems: Sequence[str], source: ListSource, work: Path) -> Iterator[Row]:
    """Yield the comparisons with each first stage's own order."""
    for collection, stages in STAGES.items():
        for stage in stages:
            lists = source.lists(collection, stage, DEPTH, EVEN if collection == "Cranfield" else frozenset())
            runs = [rank(system, lists, collection, stage, work) for system in systems]
            yield from compare(f"{collection}, {stage}", lists, runs, lists.run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=("final", "lists"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="msmarco_candidates, qrels, cranfield and vaswani")
    parser.add_argument("--system", action="append", required=True, metavar="NAME[+NAME]@WEIGHT")
    given = parser.parse_args()
    make = final_rows if given.table == "final" else list_rows
    rows = list(make(given.system, ListSource(given.data.resolve()), given.work.resolve()))
    corrected = holm([row.p for row in rows])
    print(f"| lists | system | baseline | {MEASURE} | judged@10 | difference [95 %] | p | Holm |\n|" + " --- |" * 8)
    for row, p in zip(rows, corrected, strict=True):
        print(replace(row, corrected=p))


if __name__ == "__main__":
    main()

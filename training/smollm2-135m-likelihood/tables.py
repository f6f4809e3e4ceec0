"""The tables that report what a default is worth, over scores that `search.py` and this script store.

    python tables.py final --work work --data FOLDER --system untrained@.25 --system all-linear-n800-s1@.25
    python tables.py lists --work work --data FOLDER --system untrained@.5

`final` ranks BM25's first 100 of TREC DL 2019 and of Cranfield's even-numbered queries, which were not used to choose
anything, and compares each system with BM25, and each trained one with each untrained one. `lists` ranks the first 100
of every first stage, and compares each with its own order; of its queries, those of DL21 have chosen adapters and their
weights. Half of Cranfield's even-numbered queries share relevant documents with odd-numbered ones, so only DL19 is
another domain.

nDCG@10 per query goes into --values, a JSON lines file. A system whose values are there is not measured again; delete
the lines of an adapter that is trained again under the same name. Values of another processor differ by rounding.
Tests are two-sided paired t-tests. Holm's correction is over all tests of one table, and intervals are not corrected.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lists import EVEN, STAGES, ListSource
from search import MEASURE, UNTRAINED, check_adapters
from systems import DEPTH, FIRST_STAGE, System

from rerank.evaluation import evaluate_run
from rerank.evaluation.judgment_coverage import cover_runs_by_judgments
from rerank.evaluation.significance.single_pairs import holm, paired_t, student_t_interval

#: Collections of the final table.
FINAL = ("DL19", "Cranfield")


@dataclass(frozen=True)
class Values:
    """Effectiveness of a system on some lists.

    Attributes:
        per_query: nDCG@10 per query id.
        judged: Share of judged documents among the ten best.
    """

    per_query: Mapping[str, float]
    judged: float


@dataclass(frozen=True)
class Row:
    """A system on some lists, compared with a baseline."""

    lists: str
    queries: int
    system: str
    baseline: str
    value: float
    judged: float
    difference: float
    low: float
    high: float
    p: float

    def to_markdown(self, corrected: float) -> str:
        """Return the row of a Markdown table with the corrected p."""
        interval = f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        values = f"{self.value:.4f} | {self.judged:.3f} | {interval} | {self.p:.2g} | {corrected:.2g}"
        return f"| {self.lists} ({self.queries}) | {self.system} | {self.baseline} | {values} |"


@dataclass(frozen=True)
class Measurer:
    """Measures systems, and stores their values in a file.

    Attributes:
        source: The candidate lists.
        work: Folder with adapters and scores.
        file: JSON lines file of values.
    """

    source: ListSource
    work: Path
    file: Path

    def values(self, collection: str, stage: str, system: System) -> Values:
        """Return the values of a system, from the file if they are there."""
        key = [collection, stage, str(system)]
        stored = next((row for row in self._read() if row["key"] == key), None)
        if stored is None:
            stored = {"key": key, **asdict(self._measure(collection, stage, system))}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:  # in one call, so that two processes can append
                file.write(json.dumps(stored) + "\n")
        return Values(stored["per_query"], stored["judged"])

    def _read(self) -> list[dict[str, Any]]:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [json.loads(line) for line in lines]

    def _measure(self, collection: str, stage: str, system: System) -> Values:
        half = EVEN if collection == "Cranfield" else frozenset[str]()
        lists = self.source.lists(collection, stage, DEPTH, half)
        run = system.rank(lists.run, collection, stage, self.work)
        scores = evaluate_run(lists.qrels, run, [MEASURE], relevant=lists.relevant)
        (coverage,), _ = cover_runs_by_judgments(lists.qrels, [run], [MEASURE], bounds=False)
        rounded = {query: round(value, 6) for query, value in scores.values[MEASURE].items()}
        return Values(rounded, round(coverage.judged[MEASURE], 4))

    def compare(self, collection: str, stage: str, systems: Sequence[System], baseline: System) -> Iterator[Row]:
        """Yield one row per system."""
        name = f"{collection}{' even' if collection == 'Cranfield' else ''}, {stage}"
        base = self.values(collection, stage, baseline).per_query
        for system in systems:
            own = self.values(collection, stage, system)
            if own.per_query.keys() != base.keys():
                message = f"{self.file}: {system} and {baseline} have values of different queries on {name}"
                raise SystemExit(f"{message}; delete the lines of one of them")
            differences = [value - base[query] for query, value in own.per_query.items()]
            low, high = student_t_interval(differences)
            yield Row(
                lists=name,
                queries=len(differences),
                system=str(system),
                baseline=str(baseline),
                value=sum(own.per_query.values()) / len(own.per_query),
                judged=own.judged,
                difference=sum(differences) / len(differences),
                low=low,
                high=high,
                p=paired_t(differences),
            )


def final_rows(systems: Sequence[System], measurer: Measurer) -> Iterator[Row]:
    """Yield the comparisons with BM25, then those with untrained systems, on the two collections that chose nothing."""
    others = [system for system in systems if system.names != (UNTRAINED,)]
    for collection in FINAL:
        yield from measurer.compare(collection, "BM25", systems, FIRST_STAGE)
        for baseline in (system for system in systems if system not in others):
            yield from measurer.compare(collection, "BM25", others, baseline)


def list_rows(systems: Sequence[System], measurer: Measurer) -> Iterator[Row]:
    """Yield the comparisons with each first stage's own order."""
    for collection, stages in STAGES.items():
        for stage in stages:
            yield from measurer.compare(collection, stage, systems, FIRST_STAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=("final", "lists"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="msmarco_candidates, qrels, cranfield and vaswani")
    parser.add_argument("--values", type=Path, help="file of values per query; work/values.jsonl if omitted")
    System.add_option(parser)
    given = parser.parse_args()
    work, source = given.work.resolve(), ListSource(given.data.resolve())
    source.check(FINAL if given.table == "final" else STAGES)
    for system in given.system:
        check_adapters(system.names, work)
    if len(set(given.system)) < len(given.system):
        parser.error("a system was given twice; give each once, since Holm's correction counts them")
    measurer = Measurer(source, work, given.values or work / "values.jsonl")
    rows = list((final_rows if given.table == "final" else list_rows)(given.system, measurer))
    corrected = holm([row.p for row in rows])
    print(f"| lists | system | baseline | {MEASURE} | judged@10 | difference [95 %] | p | Holm |\n|" + " --- |" * 8)
    for row, p in zip(rows, corrected, strict=True):
        print(row.to_markdown(p))


if __name__ == "__main__":
    main()

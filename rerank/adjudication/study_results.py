"""Results of adjudication studies: cells per method, seed, budget, measure and test, means over seeds, and files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rerank.adjudication.budgets import AdjudicationBudget
from rerank.adjudication.pair_categories import Codes, count_pair_errors_by_system
from rerank.adjudication.pools import Pool
from rerank.adjudication.significance_verdicts import Procedure, SignificanceVerdicts, pair_category_metrics_row
from rerank.adjudication.study_design import StudyDesign
from rerank.io.text_files import replace_text_file

#: Fields that identify a row.
KEYS = ("method", "budget", "measure", "test", "correction")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class StudyCell:
    """Result of one walk through the pool, stopped at one budget, by one measure and one test.

    Attributes:
        method: Selector of the judging order.
        seed: Seed of the walk.
        budget: Judging budget.
        measure: Name of the measure.
        procedure: The test with its correction.
        judged: Number of judged documents over all topics.
        topics: Number of topics with judged documents.
        relevant: Number of relevant judged documents.
        codes: (pairs,) category code of every pair of systems (`pair_categories.NAMES`).
        similarity: Similarity to gold's ranking of systems, by name.
    """

    method: str
    seed: int
    budget: AdjudicationBudget
    measure: str
    procedure: Procedure
    judged: int
    topics: int
    relevant: int
    codes: Codes
    similarity: Mapping[str, float | None]

    @property
    def key(self) -> tuple[str, ...]:
        """Values of `KEYS`, which exclude the seed."""
        return (self.method, str(self.budget), self.measure, self.procedure.test, self.procedure.correction)

    def numbers(self) -> dict[str, Any]:
        """Return all values by name."""
        counts = {"judged": self.judged, "topics_judged": self.topics, "relevant": self.relevant}
        return {**counts, **pair_category_metrics_row(self.codes, dict(self.similarity))}


@dataclass(frozen=True, eq=False, kw_only=True)
class AdjudicationStudy:
    """Results of a study.

    Attributes:
        design: The study's design.
        pool: The pool.
        qrels: Name of the gold judgments.
        topics: Topics of the gold judgments, which all count.
        gold: Measure -> verdicts by gold judgments.
        cells: One cell per method, seed, budget, measure and test.
        whole: One cell per measure and test with the whole pool judged, the upper bound of every method.
        notes: Caveats for the reader.
    """

    design: StudyDesign
    pool: Pool
    qrels: str
    topics: tuple[str, ...]
    gold: Mapping[str, SignificanceVerdicts]
    cells: tuple[StudyCell, ...]
    whole: tuple[StudyCell, ...]
    notes: tuple[str, ...] = ()

    def groups(self) -> dict[tuple[str, ...], list[StudyCell]]:
        """Group the cells that differ only by seed."""
        groups: dict[tuple[str, ...], list[StudyCell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.key, []).append(cell)
        return groups

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per method, budget, measure and test: means over seeds and standard deviations."""
        return [_mean_study_values(key, [cell.numbers() for cell in cells]) for key, cells in self.groups().items()]

    def golds(self) -> list[dict[str, Any]]:
        """Return one row per measure and test: gold's significant pairs, and how many the whole pool retains."""
        rows = []
        for cell in self.whole:
            significant = self.gold[cell.measure].significant[self.design.procedures.index(cell.procedure)]
            about = {"measure": cell.measure, "test": cell.procedure.test, "correction": cell.procedure.correction}
            retained = {name: cell.numbers()[name] for name in ("precision", "recall", "tau")}
            rows.append(
                {**about, "pairs": len(significant), "significant": int(significant.sum()), "whole_pool": retained}
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank qrels study --format json``."""
        design, golds = self.design, self.golds()
        return {
            "gold": {
                "pairs": golds[0]["pairs"],
                "significant": golds[0]["significant"],
                "topics": len(self.topics),
                "systems": len(self.pool.systems),
                "all": golds,
            },
            "qrels": self.qrels,
            "pool": {"depth": design.depth, "unjudged": design.unjudged, **self.pool.to_dict()},
            "options": {
                "relevant": design.relevant,
                "alpha": design.alpha,
                "seeds": design.seeds,
                "seed": design.seed,
            },
            "notes": list(self.notes),
            "results": self.rows(),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write ``study.json`` (`to_dict`), ``study.csv`` (one line per seed) and ``systems.csv`` (errors per system).

        Raises:
            StorageError: A file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        files = {
            "study.json": text + "\n",
            "study.csv": _study_csv(
                {**dict(zip(KEYS, cell.key, strict=True)), "seed": cell.seed, **cell.numbers()} for cell in self.cells
            ),
            "systems.csv": _study_csv(self._by_system()),
        }
        for name, content in files.items():
            with replace_text_file(folder / name) as stream:
                stream.write(printable_study_name(content))
        return [folder / name for name in files]

    def _by_system(self) -> Iterator[dict[str, Any]]:
        """Yield the number of missed, spurious and turned pairs of each system, averaged over seeds."""
        systems = self.pool.systems
        for key, cells in self.groups().items():
            counts_by_seed = [count_pair_errors_by_system(cell.codes, len(systems)) for cell in cells]
            for index, system in enumerate(systems):
                counts = {
                    error: fmean(seed_counts[error][index] for seed_counts in counts_by_seed)
                    for error in counts_by_seed[0]
                }
                yield {**dict(zip(KEYS, key, strict=True)), "system": system, **counts}


def printable_study_name(text: str) -> str:
    """Escape what cannot be encoded as UTF-8: file names, and so names of runs, may contain any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mean_study_values(key: tuple[str, ...], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of every value, and the standard deviation if there are several.

    Seeds for which a rate is undefined are excluded from its mean; ``undefined`` counts them.
    """
    means: dict[str, Any] = {**dict(zip(KEYS, key, strict=True)), "seeds": len(results)}
    spread = {}
    for name in results[0]:
        values = [numbers[name] for numbers in results if numbers[name] is not None]
        means[name] = (values[0] if len(results) == 1 else fmean(values)) if values else None
        spread[name] = stdev(values) if len(values) > 1 else 0.0
    undefined = {name: missing for name in results[0] if (missing := sum(numbers[name] is None for numbers in results))}
    return {**means, "spread": spread, "undefined": undefined} if len(results) > 1 else means


def _study_csv(rows: Iterator[dict[str, Any]]) -> str:
    """Format rows as CSV with a header."""
    out = io.StringIO()
    first = next(rows)
    writer = csv.DictWriter(out, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(rows)
    return out.getvalue()

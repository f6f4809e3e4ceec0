"""What a study found: a cell for every method, seed, budget, measure and test; rows with the mean over seeds; files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rerank.adjudication.budgets import Budget
from rerank.adjudication.categories import Codes, by_system
from rerank.adjudication.pools import Pool
from rerank.adjudication.verdicts import Procedure, Verdicts, row
from rerank.io.text_files import replace_text

if TYPE_CHECKING:
    from rerank.adjudication.studies import Design

#: What a row is about.
KEYS = ("method", "budget", "measure", "test", "correction")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Cell:
    """One walk through the pool, stopped at one budget, by one measure and one test.

    Attributes:
        method: Selector of the order of judging.
        seed: Of its chance.
        budget: How much is judged.
        measure: Name of the measure.
        procedure: The test with its correction.
        judged: How many documents that is, over all topics.
        topics: On how many topics anything is judged.
        relevant: How many of them are relevant.
        codes: (pairs,) the category of every two systems, see `categories.NAMES`.
        alike: How near the ranking of systems is to gold's.
    """

    method: str
    seed: int
    budget: Budget
    measure: str
    procedure: Procedure
    judged: int
    topics: int
    relevant: int
    codes: Codes
    alike: Mapping[str, float | None]

    @property
    def key(self) -> tuple[str, ...]:
        """What it is about, but for the seed; see `KEYS`."""
        return (self.method, str(self.budget), self.measure, self.procedure.test, self.procedure.correction)

    def numbers(self) -> dict[str, Any]:
        """All its numbers by name."""
        counts = {"judged": self.judged, "topics_judged": self.topics, "relevant": self.relevant}
        return {**counts, **row(self.codes, dict(self.alike))}


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """What was found.

    Attributes:
        design: What was studied.
        pool: What was judged.
        qrels: What gold is called.
        topics: Gold's topics, which all count.
        gold: Measure -> what gold judgments say.
        cells: One for every method, seed, budget, measure and test.
        whole: One for every measure and test, with the whole pool judged: the most that any method could reach.
        notes: What a reader must know before believing gold's verdicts.
    """

    design: Design
    pool: Pool
    qrels: str
    topics: tuple[str, ...]
    gold: Mapping[str, Verdicts]
    cells: tuple[Cell, ...]
    whole: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    def groups(self) -> dict[tuple[str, ...], list[Cell]]:
        """Cells that differ by the seed only."""
        found: dict[tuple[str, ...], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.key, []).append(cell)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row for every method, budget, measure and test: means over seeds, and their standard deviations."""
        return [_mean(key, [cell.numbers() for cell in cells]) for key, cells in self.groups().items()]

    def golds(self) -> list[dict[str, Any]]:
        """What gold says, and how much of it the whole pool keeps: a row for every measure and test."""
        rows = []
        for cell in self.whole:
            found = self.gold[cell.measure].significant[self.design.procedures.index(cell.procedure)]
            about = {"measure": cell.measure, "test": cell.procedure.test, "correction": cell.procedure.correction}
            kept = {name: cell.numbers()[name] for name in ("precision", "recall", "tau")}
            rows.append({**about, "pairs": len(found), "significant": int(found.sum()), "whole_pool": kept})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank qrels study --format json`` prints."""
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
        """Write ``study.json`` (as `to_dict`), ``study.csv`` (a line a seed) and ``systems.csv`` (fairness).

        Raises:
            StorageError: A file could not be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        files = {
            "study.json": text + "\n",
            "study.csv": _csv(
                {**dict(zip(KEYS, c.key, strict=True)), "seed": c.seed, **c.numbers()} for c in self.cells
            ),
            "systems.csv": _csv(self._by_system()),
        }
        for name, content in files.items():
            with replace_text(folder / name) as stream:
                stream.write(printable(content))
        return [folder / name for name in files]

    def _by_system(self) -> Iterator[dict[str, Any]]:
        """How many pairs of each system are missed, spurious and turned round, the mean over seeds."""
        systems = self.pool.systems
        for key, cells in self.groups().items():
            found = [by_system(cell.codes, len(systems)) for cell in cells]
            for at, system in enumerate(systems):
                counts = {wrong: fmean(one[wrong][at] for one in found) for wrong in found[0]}
                yield {**dict(zip(KEYS, key, strict=True)), "system": system, **counts}


def printable(text: str) -> str:
    """Text as it can be written: file names, and so names of runs, need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mean(key: tuple[str, ...], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every number, and its spread if there are several.

    A rate that some seeds do not have is the mean of the others; ``undefined`` says how many have none.
    """
    means: dict[str, Any] = {**dict(zip(KEYS, key, strict=True)), "seeds": len(found)}
    spread = {}
    for name in found[0]:
        values = [numbers[name] for numbers in found if numbers[name] is not None]
        means[name] = (values[0] if len(found) == 1 else fmean(values)) if values else None
        spread[name] = stdev(values) if len(values) > 1 else 0.0
    undefined = {name: gone for name in found[0] if (gone := sum(numbers[name] is None for numbers in found))}
    return {**means, "spread": spread, "undefined": undefined} if len(found) > 1 else means


def _csv(rows: Iterator[dict[str, Any]]) -> str:
    out = io.StringIO()
    first = next(rows)
    writer = csv.DictWriter(out, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(rows)
    return out.getvalue()

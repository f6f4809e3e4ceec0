"""Results of adjudication studies: one cell per method, seed, budget, measure and test, and means over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from rerank.adjudication.pair_categories import Codes, PairCategories, count_cheaper_judgment_errors
from rerank.adjudication.pools import Bools, Floats, Ints, Pool
from rerank.adjudication.significance_verdicts import Procedure, SignificanceVerdicts, gold_judgment_comparison_row
from rerank.adjudication.study_design import StudyDesign
from rerank.adjudication.study_resampling import RESAMPLED, compare_study_methods, study_figure_intervals
from rerank.adjudication.walks import AdjudicationBudget
from rerank.io.csv_tables import format_csv_table
from rerank.io.text_files import replace_text_file

#: Fields that identify a row of the results.
KEYS = ("method", "budget", "measure", "test", "correction")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class StudyCell:
    """Result of one walk through the pool up to one budget, evaluated with one measure and one test.

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
        similarity: Similarities to the gold ranking of systems, by name (tau, tau_ap, rbo, max_drop).
        rank_changes: (systems,) number of ranks by which each system falls from the gold ranking.
        resampled: (samples, figures) figures on the samples of topics and systems of this walk; None without samples.
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
    rank_changes: Ints
    resampled: Floats | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Method, budget, measure, test and correction, which together with the seed identify the cell."""
        return (self.method, str(self.budget), self.measure, self.procedure.test, self.procedure.correction)

    def numbers(self) -> dict[str, Any]:
        """Return all counts, rates and similarities by name."""
        counts = {"judged": self.judged, "topics_judged": self.topics, "relevant": self.relevant}
        return {**counts, **gold_judgment_comparison_row(self.codes, dict(self.similarity))}


@dataclass(frozen=True, eq=False, kw_only=True)
class AdjudicationStudy:
    """Results of an adjudication study: how well each method and budget preserves gold conclusions.

    Attributes:
        design: Design of the study.
        pool: The pool.
        qrels: Name of the gold judgments.
        topics: Topics of the gold judgments. All of them are evaluated.
        gold: Significance decisions with the gold judgments, for each measure.
        cells: One cell per method, seed, budget, measure and test.
        whole: One cell per measure and test, with the whole pool judged. All methods reach these values when the budget
            covers the whole pool.
        pooled: (systems,) whether the system contributed to the pool; None if the pool was formed from all runs.
        repeats: Variation between the runs of each repeated system (`SystemRepeats.describe`).
        notes: Caveats for the reader.
    """

    design: StudyDesign
    pool: Pool
    qrels: str
    topics: tuple[str, ...]
    gold: Mapping[str, SignificanceVerdicts]
    cells: tuple[StudyCell, ...]
    whole: tuple[StudyCell, ...]
    pooled: Bools | None = None
    repeats: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the evaluated systems."""
        return next(iter(self.gold.values())).systems

    def groups(self) -> dict[tuple[str, ...], list[StudyCell]]:
        """Group the cells that differ only by seed."""
        groups: dict[tuple[str, ...], list[StudyCell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.key, []).append(cell)
        return groups

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per method, budget, measure and test.

        A row has means over seeds; standard deviations over seeds (``spread``) if there are several; intervals if the
        study has samples; and, if the pool was formed from some systems only, the figures of the pairs with two, one
        and no contributing system (``by_contribution``).
        """
        rows = []
        for key, cells in self.groups().items():
            row = _mean_study_values(key, [cell.numbers() for cell in cells])
            if self.design.resamples:
                row["interval"] = study_figure_intervals(row, self._figures(cells), self.design.alpha)
            if self.pooled is not None:
                row["by_contribution"] = self._by_contribution(cells, self.pooled)
            rows.append(row)
        return rows

    def contrasts(self) -> list[dict[str, Any]]:
        """Return tests of the differences between methods, per budget, measure and test; empty without samples."""
        groups = self.groups() if self.design.resamples else {}
        rows = {tuple(row[name] for name in KEYS): row for row in self.rows()} if groups else {}
        settings: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for key in groups:
            settings.setdefault(key[1:], []).append(key)
        return [
            {**dict(zip(KEYS[1:], setting, strict=True)), **contrast}
            for setting, keys in settings.items()
            for contrast in compare_study_methods(
                {key[0]: rows[key] for key in keys},
                {key[0]: self._figures(groups[key]) for key in keys},
                self.design.alpha,
            )
        ]

    def _figures(self, cells: Sequence[StudyCell]) -> Floats:
        """Combine the figures on samples from the cells of all seeds, as a (samples, figures) array in sample order."""
        figures = np.empty((self.design.resamples, len(RESAMPLED)))
        for cell in cells:
            figures[self.design.samples_of_walk(cell.method, cell.seed)] = cell.resampled
        return figures

    def _by_contribution(self, cells: Sequence[StudyCell], pooled: Bools) -> list[dict[str, Any]]:
        first, second = np.triu_indices(len(pooled), 1)
        contributing = pooled[first].astype(int) + pooled[second]  # (pairs,) number of contributing systems
        return [
            {"contributing": count, **_mean_values([_categories(cell.codes[pairs]) for cell in cells])[0]}
            for count in (2, 1, 0)
            if (pairs := contributing == count).any()
        ]

    def golds(self) -> list[dict[str, Any]]:
        """Return one row per measure and test: pairs significant with gold judgments, and whole-pool values."""
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
                "systems": len(self.systems),
                "all": golds,
            },
            "qrels": self.qrels,
            "pool": {"depth": design.depth, "unjudged": design.unjudged, **self.pool.to_dict()},
            "options": {
                "relevant": design.relevant,
                "alpha": design.alpha,
                "seeds": design.seeds,
                "seed": design.seed,
                **({"resamples": design.resamples} if design.resamples else {}),
            },
            "families": [procedure.family(self.gold, design.alpha).to_dict() for procedure in design.procedures],
            **({"pooled_systems": int(self.pooled.sum())} if self.pooled is not None else {}),
            **({"repeats": [*self.repeats]} if self.repeats else {}),
            **({"contrasts": self.contrasts()} if design.resamples else {}),
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
        """Yield one row per setting and system: its missed, spurious and reversed pairs, averaged over seeds.

        ``rank_change`` is the mean number of ranks by which the system falls. If the pool was formed from some systems
        only, ``pooled`` is 1 for these systems and 0 for the others.
        """
        systems = self.systems
        for key, cells in self.groups().items():
            counts_by_seed = [count_cheaper_judgment_errors(cell.codes, len(systems)) for cell in cells]
            for index, system in enumerate(systems):
                counts = {
                    error: fmean(seed_counts[error][index] for seed_counts in counts_by_seed)
                    for error in counts_by_seed[0]
                }
                counts["rank_change"] = fmean(cell.rank_changes[index] for cell in cells)
                pooled = {} if self.pooled is None else {"pooled": int(self.pooled[index])}
                yield {**dict(zip(KEYS, key, strict=True)), "system": system, **counts, **pooled}


def printable_study_name(text: str) -> str:
    """Return a run's name with characters that UTF-8 cannot encode escaped; names come from files, with any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mean_study_values(key: tuple[str, ...], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of every value over seeds, and the standard deviation if there are several seeds.

    Seeds for which a rate is undefined are excluded from the mean of that rate; ``undefined`` counts them.
    """
    means, spread = _mean_values(results)
    row = {**dict(zip(KEYS, key, strict=True)), "seeds": len(results), **means}
    undefined = {name: missing for name in results[0] if (missing := sum(numbers[name] is None for numbers in results))}
    return {**row, "spread": spread, "undefined": undefined} if len(results) > 1 else row


def _mean_values(results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return, for each named value, mean and standard deviation over the results in which it is defined.

    The mean is None if the value is undefined in all results. The standard deviation is 0 for fewer than two values.
    """
    means, spread = {}, {}
    for name in results[0]:
        values = [numbers[name] for numbers in results if numbers[name] is not None]
        means[name] = (values[0] if len(results) == 1 else fmean(values)) if values else None
        spread[name] = stdev(values) if len(values) > 1 else 0.0
    return means, spread


def _categories(codes: Codes) -> dict[str, float | None]:
    categories = PairCategories.from_codes(codes)
    return {"pairs": categories.pairs, **categories.to_dict()}


def _study_csv(rows: Iterator[dict[str, Any]]) -> str:
    """Format rows as CSV with a header."""
    first = next(rows)
    return format_csv_table(list(first), (list(row.values()) for row in (first, *rows)))

"""Adjudication studies. They measure how well judging orders with limited budgets preserve conclusions from gold qrels.

Source: Otero, Parapar and Ferro, How discriminative are your qrels? How to study the statistical significance of
document adjudication methods, CIKM 2023.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from rerank.adjudication.conclusions import (
    RESAMPLED,
    Codes,
    PairCategories,
    Procedure,
    SignificanceVerdicts,
    StudyResamples,
    compare_methods,
    comparison_row,
    count_errors,
    figure_intervals,
    procedure_of_row,
    verdict_grid,
    verdict_tables,
)
from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.orders.base import JudgingOrder
from rerank.adjudication.pool_measures import Measurer
from rerank.adjudication.pools import DEPTH, Bools, Floats, Ints, Pool, pool_runs
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.errors import UsageError, ensure
from rerank.evaluation import ScoreMatrix
from rerank.evaluation.comparison import notes_on_judgments
from rerank.evaluation.pairwise_decisions import check_significance_level, list_caveats
from rerank.io.reports import Part, Report, TableReport, format_csv_table
from rerank.io.text_files import replace_text_file
from rerank.types import Qrels, Run

#: Function that is called with the method after every walk. The walks are listed in `StudyDesign.walks`.
OnWalk = Callable[[str], None]
#: Fields that identify a row of the results.
KEYS = ("method", "budget", "measure", "test", "correction")
#: A study with fewer pairs of systems than this gets a note.
FEW_PAIRS = 10
#: Largest number of examples in one note.
_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """Design of an adjudication study, which compares judging orders under limited budgets."""

    methods: tuple[str, ...]  # selectors of judging orders
    budgets: tuple[AdjudicationBudget, ...]
    measures: tuple[str, ...] = ("nDCG@10",)
    procedures: tuple[Procedure, ...] = (Procedure("t", "bh"),)  # tests with their corrections
    relevant: int = 1  # lowest grade that counts as relevant in binary measures and for judging orders
    depth: int = DEPTH
    unjudged: bool = False  # whether to keep documents without a gold judgment in the pool; they count as not relevant
    alpha: float = 0.05
    seeds: int = 10  # number of times that a stochastic order is repeated, each time with another seed
    seed: int = 0  # the first seed; repetitions use consecutive seeds
    resamples: int = 0  # number of samples of topics and systems for intervals and for tests of methods; 0 for none
    #: Pairs of the name of a system and a shell pattern. Runs whose names match are repeats of that system.
    repeats: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("methods", "budgets", "measures", "procedures"):
            values = tuple(dict.fromkeys(getattr(self, name)))
            object.__setattr__(self, name, values)
            ensure(values, f"The list of {name} of the study is empty", expected="at least one entry")
        ensure(self.seeds >= 1, f"seeds is {self.seeds}", expected="at least 1")
        if self.resamples < 0 or self.resamples == 1:
            raise UsageError(f"resamples is {self.resamples}", expected="0, or at least 2", remedy="Use 1000")
        check_significance_level(self.alpha)

    @cached_property
    def orders(self) -> dict[str, JudgingOrder]:
        return {method: open_judging_order(method) for method in self.methods}

    @property
    def walks(self) -> list[tuple[str, int]]:
        """All pairs of a method and a seed. Methods that are not stochastic use only the first seed."""
        return [(method, self.seed + offset) for method in self.methods for offset in range(self.repetitions(method))]

    def repetitions(self, method: str) -> int:
        return self.seeds if self.orders[method].random else 1

    def samples_of_walk(self, method: str, seed: int) -> range:
        """Return the indices of the samples for one method and seed; each seed takes its turn."""
        return range(seed - self.seed, self.resamples, self.repetitions(method))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class StudyCell:
    """Result of one walk through the pool up to one budget, evaluated with one measure and one test."""

    method: str  # selector of the judging order
    seed: int
    budget: AdjudicationBudget
    measure: str
    procedure: Procedure  # the test with its correction
    judged: int  # number of judged documents over all topics
    topics: int  # number of topics with judged documents
    relevant: int  # number of relevant judged documents
    codes: Codes  # (pairs,) category code of every pair of systems (`conclusions.NAMES`)
    #: Similarities to the gold ranking of systems, by name (tau, tau_ap, rbo, max_drop).
    similarity: Mapping[str, float | None]
    rank_changes: Ints  # (systems,) number of ranks by which each system falls from the gold ranking
    #: (samples, figures) figures on the samples of topics and systems of this walk; None without samples.
    resampled: Floats | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What, together with the seed, identifies the cell (`KEYS`)."""
        return (self.method, str(self.budget), self.measure, self.procedure.test, self.procedure.correction)

    def numbers(self) -> dict[str, Any]:
        counts = {"judged": self.judged, "topics_judged": self.topics, "relevant": self.relevant}
        return {**counts, **comparison_row(self.codes, self.similarity)}


@dataclass(frozen=True, eq=False, kw_only=True)
class AdjudicationStudy(Report):
    """Results of an adjudication study: how well each method and budget preserves gold conclusions."""

    rows_key = "results"

    design: StudyDesign
    pool: Pool
    qrels: str
    #: Topics of the gold judgments. All of them are evaluated.
    topics: tuple[str, ...]
    gold: Mapping[str, SignificanceVerdicts]  # significance decisions with the gold judgments, for each measure
    cells: tuple[StudyCell, ...]  # one cell per method, seed, budget, measure and test
    #: One cell per measure and test, with the whole pool judged, which is the limit of all methods.
    whole: tuple[StudyCell, ...]
    #: (systems,) whether the system contributed to the pool; None if the pool was formed from all runs.
    pooled: Bools | None = None
    #: Variation between the runs of each repeated system (`SystemRepeats.describe`).
    repeats: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def systems(self) -> tuple[str, ...]:
        return next(iter(self.gold.values())).systems

    def groups(self) -> dict[tuple[str, ...], list[StudyCell]]:
        groups: dict[tuple[str, ...], list[StudyCell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.key, []).append(cell)
        return groups

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per method, budget, measure and test.

        A row has means over seeds; standard deviations over seeds (``spread``) and the number of seeds for which a rate
        is ``undefined``, if there are several; intervals if the study has samples; and, if the pool was formed from
        some systems only, the figures of the pairs with two, one and no contributing system (``by_contribution``).
        """
        rows = []
        for key, cells in self.groups().items():
            results = [cell.numbers() for cell in cells]
            means, spread = _mean_values(results)
            row: dict[str, Any] = {**dict(zip(KEYS, key, strict=True)), "seeds": len(results), **means}
            if len(results) > 1:
                missing = {name: sum(numbers[name] is None for numbers in results) for name in results[0]}
                row["spread"] = spread
                row["undefined"] = {name: count for name, count in missing.items() if count}
            if self.design.resamples:
                row["interval"] = figure_intervals(row, self._figures(cells), self.design.alpha)
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
            for contrast in compare_methods(
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
        rows = []
        for count in (2, 1, 0):
            pairs = contributing == count
            if pairs.any():
                categories = [PairCategories.from_codes(cell.codes[pairs]) for cell in cells]
                means, _ = _mean_values([{"pairs": found.pairs, **found.to_dict()} for found in categories])
                rows.append({"contributing": count, **means})
        return rows

    def golds(self) -> list[dict[str, Any]]:
        """Return one row per measure and test: pairs significant with gold judgments, and whole-pool values."""
        rows = []
        for cell in self.whole:
            significant = self.gold[cell.measure].significant[self.design.procedures.index(cell.procedure)]
            about = {"measure": cell.measure, "test": cell.procedure.test, "correction": cell.procedure.correction}
            counts = {"pairs": len(significant), "significant": int(significant.sum())}
            retained = {name: cell.numbers()[name] for name in ("precision", "recall", "tau")}
            rows.append({**about, **counts, "whole_pool": retained})
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

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table with one row per method, budget, measure and test; the numbers of decimals are fixed."""
        families = [procedure.family(self.gold, self.design.alpha) for procedure in self.design.procedures]
        return verdict_tables({"results": self.rows(), "notes": self.notes}, families, ("method", "budget"))

    def parts(self) -> Iterator[Part]:
        rows = self.rows()
        for row in self.golds():
            yield (
                f"gold: {row['significant']} of {row['pairs']} pairs differ significantly by {row['measure']}, "
                f"{procedure_of_row(row)}, {len(self.topics)} topics"
            )
        yield verdict_grid(rows, ("method", "budget"))
        for repeat in self.repeats:
            yield (
                f"{repeat['system']}: mean of {repeat['runs']} runs, {repeat['measure']} {repeat['mean']:.4f}; "
                f"standard deviation of the runs' means {repeat['sd_of_means']:.4f}, between runs on a topic "
                f"{repeat['sd_per_topic']:.4f}"
            )
        if self.pooled is not None:
            yield (
                f"{int(self.pooled.sum())} of {len(self.systems)} systems contributed to the pool; --format json lists "
                "the pairs with and without these systems (by_contribution)"
            )
        yield from (f"note: {text}" for text in self.notes)
        if any(row["seeds"] > 1 for row in rows):
            yield "stochastic methods: means over seeds; --format json includes the spread"
        if not self.design.resamples:
            yield "no intervals: --resamples 1000 adds intervals, and tests of the methods against each other"

    def write(self, folder: Path) -> list[Path]:
        """Write ``study.json`` (`to_dict`), ``study.csv`` (a line per seed) and ``systems.csv`` (errors per system)."""
        folder.mkdir(parents=True, exist_ok=True)
        seeds = [{**dict(zip(KEYS, cell.key, strict=True)), "seed": cell.seed, **cell.numbers()} for cell in self.cells]
        files = {"study.json": json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"}
        for name, rows in {"study.csv": seeds, "systems.csv": list(self._by_system())}.items():
            files[name] = format_csv_table(list(rows[0]), (list(row.values()) for row in rows))
        for name, content in files.items():
            with replace_text_file(folder / name) as stream:
                stream.write(escape_unencodable(content))
        return [folder / name for name in files]

    def _by_system(self) -> Iterator[dict[str, Any]]:
        """Yield, per setting and system, means over seeds: missed, spurious and reversed pairs, and ranks it falls."""
        systems = self.systems
        for key, cells in self.groups().items():
            counts_by_seed = [count_errors(cell.codes, len(systems)) for cell in cells]
            for index, system in enumerate(systems):
                counts = {name: fmean(row[name][index] for row in counts_by_seed) for name in counts_by_seed[0]}
                counts["rank_change"] = fmean(cell.rank_changes[index] for cell in cells)
                pooled = {} if self.pooled is None else {"pooled": int(self.pooled[index])}
                yield {**dict(zip(KEYS, key, strict=True)), "system": system, **counts, **pooled}


def escape_unencodable(text: str) -> str:
    """Return a text with characters that UTF-8 cannot encode escaped; names of runs come from files, with any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mean_values(results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return mean (None without values) and standard deviation (0 for fewer than 2) over results that define it."""
    means, spread = {}, {}
    for name in results[0]:
        values = [numbers[name] for numbers in results if numbers[name] is not None]
        means[name] = (values[0] if len(results) == 1 else fmean(values)) if values else None
        spread[name] = stdev(values) if len(values) > 1 else 0.0
    return means, spread


def run_study(
    runs: Sequence[Run],
    qrels: Qrels,
    design: StudyDesign,
    *,
    pool_from: Sequence[Run] | None = None,
    on_walk: OnWalk | None = None,
) -> AdjudicationStudy:
    """Judge the pool with every method and budget, and compare the conclusions with those from gold judgments.

    The gold judgments ``qrels`` also provide the grades for the judging orders. The runs ``pool_from`` form the pool,
    by default all; systems without a run among them did not contribute.

    Raises:
        UnknownNameError: A method, test, correction or measure does not exist.
        UsageError: An option is invalid.
        DataError: There are fewer than two runs or topics, or runs and judgments have nothing in common.
    """
    pooled = runs if pool_from is None else pool_from
    pool = pool_runs(pooled, depth=design.depth, qrels=qrels, unjudged=design.unjudged)
    measurer = Measurer(pool, runs, qrels, design.measures, relevant=design.relevant, repeats=design.repeats)
    gold = {
        name: SignificanceVerdicts.from_scores(matrix.values, matrix.systems, design.procedures, design.alpha)
        for name, matrix in measurer.gold.items()
    }
    # any order gives the same result if the whole pool is judged
    everything = replace(design, methods=("docid",), budgets=(AdjudicationBudget("share", 100),), resamples=0)
    whole = tuple(_judge_pool("docid", design.seed, everything, measurer, gold, None))
    samples = None
    if count := design.resamples:
        samples = StudyResamples.draw(gold, design.procedures, resamples=count, seed=design.seed, alpha=design.alpha)
    cells: list[StudyCell] = []
    for method, seed in design.walks:
        cells += _judge_pool(method, seed, design, measurer, gold, samples)
        if on_walk:
            on_walk(method)
    notes = [
        *notes_on_tests(measurer.gold.values(), design.procedures, design.alpha),
        *notes_on_judgments(qrels, runs, measurer.names, design.relevant),
        *_notes_on_pool(pool, qrels.judged(), whole, depth=design.depth, relevant=design.relevant),
        *_notes_on_budgets(cells, len(pool.topics)),
    ]
    return AdjudicationStudy(
        design=design,
        pool=pool,
        qrels=qrels.name,
        topics=measurer.topics,
        gold=gold,
        pooled=None if pool_from is None else measurer.repeats.contributed(pool.systems),
        repeats=tuple(measurer.repeats.describe(measurer.run_scores)),
        cells=tuple(cells),
        whole=whole,
        notes=tuple(dict.fromkeys(notes)),
    )


def _judge_pool(
    method: str,
    seed: int,
    design: StudyDesign,
    measurer: Measurer,
    gold: dict[str, SignificanceVerdicts],
    samples: StudyResamples | None,
) -> Iterator[StudyCell]:
    """Judge the whole pool by one method and seed. Yield one result per budget, measure and procedure."""
    relevant = measurer.relevant_documents(design.relevant)
    ordering = judge_pool_in_order(design.orders[method], measurer.pool, relevant, seed=seed)
    values = measurer.measure(ordering, design.budgets)
    # for every topic, (docs,) number of relevant documents among the first n judged documents
    hits = [flags[docs].cumsum() for flags, docs in zip(relevant, ordering.docs, strict=True)]
    drawn = design.samples_of_walk(method, seed)
    for index, budget in enumerate(design.budgets):
        sizes = ordering.sizes(budget)
        relevant_found = sum(int(row[size - 1]) for row, size in zip(hits, sizes, strict=True) if size)
        for measure, matrices in values.items():
            systems = gold[measure].systems
            cheap = SignificanceVerdicts.from_scores(matrices[index], systems, design.procedures, design.alpha)
            similarity = cheap.compare_ranking(gold[measure])
            resampled = samples.evaluate(measure, cheap, drawn) if samples else [None] * len(design.procedures)
            verdicts = cheap.categorise_against(gold[measure])
            for procedure, codes, figures in zip(design.procedures, verdicts, resampled, strict=True):
                yield StudyCell(
                    method=method,
                    seed=seed,
                    budget=budget,
                    measure=measure,
                    procedure=procedure,
                    judged=int(sizes.sum()),
                    topics=int((sizes > 0).sum()),
                    relevant=relevant_found,
                    codes=codes,
                    similarity=similarity,
                    rank_changes=cheap.rank_changes(gold[measure]),
                    resampled=figures,
                )


def notes_on_tests(matrices: Iterable[ScoreMatrix], procedures: Sequence[Procedure], alpha: float) -> Iterator[str]:
    """Yield reasons to doubt a test (`list_caveats`), and a warning if there are few pairs of systems."""
    pairs = 0
    for matrix in matrices:
        pairs = len(matrix.systems) * (len(matrix.systems) - 1) // 2
        for procedure in procedures:
            yield from list_caveats(matrix, procedure.significance_test, procedure.correction, alpha)
    if pairs < FEW_PAIRS:
        yield f"Only {pairs} {'pair' if pairs == 1 else 'pairs'} of systems: fractions of pairs are unreliable."


def _notes_on_pool(pool: Pool, qrels: Qrels, whole: Sequence[StudyCell], *, depth: int, relevant: int) -> Iterator[str]:
    if empty := len(qrels) - len(pool.topics):
        yield f"{empty} of {len(qrels)} topics have no document in the pool; all systems score 0 on them."
    pooled = {topic.id: set(topic.docs) for topic in pool.topics}
    outside = [grade for q, judged in qrels.items() for doc, grade in judged.items() if doc not in pooled.get(q, ())]
    if not outside:
        return
    incomplete = []
    for cell in whole:
        shares = {name: cell.numbers()[name] for name in ("precision", "recall")}
        if not shares["precision"] == shares["recall"] == 1:
            shown = (f"{name} {'-' if share is None else format(share, '.3f')}" for name, share in shares.items())
            incomplete.append(f"{cell.measure}, {cell.procedure}: {', '.join(shown)}")
    tail = f" Even the whole pool differs from gold ({'; '.join(incomplete[:_NAMED])})." if incomplete else ""
    relevant_outside = sum(grade >= relevant for grade in outside)
    yield (
        f"Gold judges {len(outside)} documents ({relevant_outside} of them relevant) outside the pool of depth "
        f"{depth}; no method can judge them.{tail}"
    )


def _notes_on_budgets(cells: Iterable[StudyCell], topics: int) -> Iterator[str]:
    """Yield a warning that lists the budgets that leave topics without judgments, if there are any."""
    cases = dict.fromkeys(
        f"{cell.method} {cell.budget} ({topics - cell.topics} of {topics})" for cell in cells if cell.topics < topics
    )
    if cases:
        more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
        yield (
            "Topics without judged documents score 0 for every system and count in the tests: "
            f"{', '.join(list(cases)[:_NAMED])}{more}."
        )

"""Evaluation of the runs of a comparison: their scores on the same queries, with notes about their judgments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rerank.evaluation.comparison import check_names_of_compared_runs, notes_on_judgments
from rerank.evaluation.evaluator import evaluate_runs
from rerank.evaluation.measures import check_measure_has_query_values, parse_measures
from rerank.evaluation.outlying_systems import find_outlying_systems
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.scores import Scores
from rerank.io.reports import format_csv_table
from rerank.io.text_files import replace_text_file
from rerank.types import Qrels, Run

#: Cutoff of the fraction of judged documents for measures without a cutoff.
_CUTOFF = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRuns:
    """Scores of the runs of a comparison on the same queries, with how much of each run is judged.

    Attributes:
        scores: One entry per run.
        measures: The measures that are compared, as ir_measures prints them.
        judged: Mean fraction of judged documents among the first k, for each pair (run, measure), where k is the
            cutoff of the measure, or 10 if it has none. Empty if the scores do not come from runs.
        notes: Caveats for the reader.
    """

    scores: tuple[Scores, ...]
    measures: tuple[str, ...]
    judged: Mapping[tuple[str, str], float]
    notes: tuple[str, ...] = ()

    def without_outliers(self, keep: str = "") -> ComparedRuns:
        """Return the scores without runs that are far below the others on the first measure (`find_outlying_systems`).

        A note lists the names of the omitted runs. If no run is omitted, this object itself is returned.

        Args:
            keep: Name of a run that is kept in any case, such as the baseline.
        """
        outlying = find_outlying_systems(ScoreMatrix.from_scores(self.scores, self.measures[0]))
        names = [name for name in outlying if name != keep]
        if not names:
            return self
        return ComparedRuns(
            scores=tuple(entry for entry in self.scores if entry.run not in names),
            measures=self.measures,
            judged=self.judged,
            notes=(*self.notes, f"Omitted, because far below the others on {self.measures[0]}: {', '.join(names)}."),
        )

    def write_query_differences(self, path: str | Path, baseline: str = "") -> None:
        """Write a CSV file with one line per measure, pair of runs and query.

        Args:
            path: The file; its columns are measure, query, a, b, score_a, score_b and difference (a minus b).
            baseline: Name of the baseline, which is ``b`` in every pair. If it is empty, all pairs of runs are written.
        """
        by_name = {entry.run: entry for entry in self.scores}
        pairs = [(name, baseline) for name in by_name if name != baseline] if baseline else [*combinations(by_name, 2)]
        rows: list[tuple[object, ...]] = []
        for measure in self.measures:
            matrix = ScoreMatrix.from_scores(self.scores, measure)
            for a, b in pairs:
                columns = [matrix.values[:, matrix.systems.index(name)].tolist() for name in (a, b)]
                columns.append(matrix.deltas(a, b).tolist())
                rows += [(measure, q, a, b, *numbers) for q, *numbers in zip(matrix.topics, *columns, strict=True)]
        with replace_text_file(path) as stream:
            stream.write(format_csv_table(("measure", "query", "a", "b", "score_a", "score_b", "difference"), rows))


def score_compared_runs(
    qrels: Qrels, runs: Sequence[Run], measures: Sequence[str], *, relevant: int = 1
) -> ComparedRuns:
    """Evaluate the runs of a comparison per query, and note problems with the judgments.

    Args:
        qrels: The relevance judgments.
        runs: At least two runs with different names.
        measures: Names of measures with per-query values, in a form that `parse_measures` accepts.
        relevant: Lowest grade that counts as relevant in binary measures whose name does not specify one.

    Raises:
        UsageError: There are fewer than two runs, two have the same name, or a measure has no per-query values.
        DataError: A run shares no query with the judgments.
    """
    parsed = parse_measures(measures, relevant=relevant)
    names = [str(measure) for measure in parsed]
    for name in names:
        check_measure_has_query_values(name)
    check_names_of_compared_runs([run.name for run in runs])
    judged = {name: f"Judged@{m.params.get('cutoff', _CUTOFF)}" for name, m in zip(names, parsed, strict=True)}
    scores = evaluate_runs(qrels, runs, [*names, *dict.fromkeys(judged.values())], relevant=relevant)
    return ComparedRuns(
        scores=tuple(scores),
        measures=tuple(names),
        judged={(entry.run, name): entry.mean(share) for entry in scores for name, share in judged.items()},
        notes=tuple(notes_on_judgments(qrels, runs, names)),
    )


def compared_runs_of_matrix(matrix: ScoreMatrix) -> ComparedRuns:
    """Create `ComparedRuns` from a score matrix. Fractions of judged documents are then unknown."""
    return ComparedRuns(scores=tuple(matrix.to_scores()), measures=(matrix.measure or "score",), judged={})

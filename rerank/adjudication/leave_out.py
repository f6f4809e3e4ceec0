"""Leave-one-out studies of a pool: how a run would be scored if its own group had not contributed to the pool.

For each group in turn, the judgments of documents that only this group contributed are removed, and all runs are scored
again. If the runs of the group fall, a new system that is like them would also be scored too low. Sources: Zobel, How
reliable are the results of large-scale information retrieval experiments?, SIGIR 1998 (single runs); Voorhees, The
philosophy of information retrieval evaluation, CLEF 2001 (all runs of a group, which resemble each other); Buckley et
al., Bias and the limits of pooling for large collections, Information Retrieval 2007 (some runs fall although the mean
change is small).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rerank.adjudication.conclusions import kendall_tau, rank_changes, rank_systems, ranks_in
from rerank.adjudication.pool_measures import score_matrices
from rerank.adjudication.pools import DEPTH, group_runs_by_name, pool_runs
from rerank.errors import DataError
from rerank.evaluation import parse_measures
from rerank.evaluation.comparison import notes_on_judgments
from rerank.io.reports import Grid, Report, TableReport, format_cell
from rerank.types import Qrels, Run

_CAVEAT = (
    "A document that only one group pooled is removed even if it would have been judged for another reason, so changes "
    "may be overstated."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOutStudy(Report):
    """Results of a leave-one-out study, in which each group of runs in turn is left out of the pool."""

    rows_key = "rows"

    depth: int
    topics: int  # number of judged topics
    #: One row per measure and run: ``measure``, ``run``, ``group``; ``unique`` and ``unique_relevant``, the numbers of
    #: judged documents that only the group contributed; the run's mean with all judgments (``mean``) and without the
    #: judgments of these documents (``without``), ``difference`` (without minus mean); ``rank`` with all judgments, and
    #: ``fall``, the number of ranks that the run loses among all runs; ``tau``, Kendall's tau of the rankings of all
    #: runs by the two sets of judgments (None if all means are equal).
    rows: tuple[dict[str, Any], ...]
    #: One row per measure: ``measure``; ``mean_change``, the mean of the absolute relative differences;
    #: ``largest_drop``, the largest relative loss; ``max_fall``, the largest ``fall``; ``lowest_tau``, the lowest
    #: ``tau`` of all groups; ``tau`` between the ranking by all judgments and the ranking in which every run is scored
    #: without its own group.
    summary: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "depth": self.depth,
            "topics": self.topics,
            "groups": len({row["group"] for row in self.rows}),
            "summary": list(self.summary),
            "rows": list(self.rows),
            "notes": list(self.notes),
        }

    def tables(self, digits: int = 4) -> TableReport:
        heads = ["measure", "run", "group", "unique", "relevant", "mean", "without", "change", "rank", "fall", "tau"]
        rows = [
            [
                *(row[key] for key in ("measure", "run", "group")),
                *(str(row[key]) for key in ("unique", "unique_relevant")),
                *(f"{row[key]:.{digits}f}" for key in ("mean", "without")),
                f"{row['difference']:+.{digits}f}",
                *(str(row[key]) for key in ("rank", "fall")),
                format_cell(row["tau"], 3),
            ]
            for row in self.rows
        ]
        legend = [
            f"{row['measure']}, {self.topics} topics, pool depth {self.depth}: without the documents of its own group, "
            f"the mean of a run changes by {row['mean_change']:.1%} on average and falls by at most "
            f"{row['largest_drop']:.1%}; the most ranks that a run loses: {row['max_fall']}; Kendall's tau is "
            f"{format_cell(row['tau'], 3)} if every run is scored without its group, and at least "
            f"{format_cell(row['lowest_tau'], 3)} if one group is left out for all runs."
            for row in self.summary
        ]
        return TableReport([Grid(heads, rows, left=3)], legend, self.notes)


def leave_groups_out(
    runs: Sequence[Run],
    qrels: Qrels,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    groups: Sequence[tuple[str, str]] = (),
    depth: int = DEPTH,
    relevant: int = 1,
) -> LeaveOutStudy:
    """Score runs without the judgments of documents that only their group contributed to the pool.

    ``groups`` are pairs of a group's name and a shell pattern for the names of its runs; other runs form groups of one.
    Each run contributed ``depth`` documents per topic.

    Raises:
        UsageError: A measure or the depth is invalid, a pattern matches no run, or two groups share a run.
        DataError: There are fewer than two groups or two topics, or no document of the pool is judged.
    """
    names = [str(measure) for measure in parse_measures(measures, relevant=relevant)]
    members = group_runs_by_name([run.name for run in runs], groups)
    if len(members) < 2:
        raise DataError(f"The number of groups of runs is {len(members)}", expected="2 or more, to leave one out")
    judged = qrels.judged()
    pool = pool_runs(runs, depth=depth, qrels=judged)
    gold = score_matrices(judged, runs, names)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for group, indices in members.items():
        inside = np.isin(np.arange(len(pool.systems)), indices)
        kept, grades = {topic: dict(judgments) for topic, judgments in judged.items()}, []
        for topic in pool.topics:
            only = topic.retrieved[inside].any(axis=0) & ~topic.retrieved[~inside].any(axis=0)
            grades += [kept[topic.id].pop(topic.docs[doc]) for doc in np.flatnonzero(only)]
            kept[topic.id] = kept[topic.id] or {"none": 0}  # a topic without judgments still counts
        reduced = score_matrices(Qrels(kept, name=judged.name), runs, names) if grades else gold
        about = {"group": group, "unique": len(grades), "unique_relevant": sum(grade >= relevant for grade in grades)}
        for name in names:
            before, after = gold[name].values.mean(axis=0), reduced[name].values.mean(axis=0)
            ranking = rank_systems(before, gold[name].systems)
            ranks = ranks_in(ranking)
            falls = rank_changes(ranking, rank_systems(after, gold[name].systems))
            tau = kendall_tau(before, after)
            rows[name] += [
                {
                    "measure": name,
                    "run": gold[name].systems[run],
                    **about,
                    "mean": float(before[run]),
                    "without": float(after[run]),
                    "difference": float(after[run] - before[run]),
                    "rank": int(ranks[run]) + 1,
                    "fall": int(falls[run]),
                    "tau": tau,
                }
                for run in indices
            ]
    pooled = f"{len(pool) / sum(map(len, judged.values())):.1%} of the judged documents are in the pool of these runs."
    return LeaveOutStudy(
        depth=depth,
        topics=len(judged),
        rows=tuple(row for name in names for row in sorted(rows[name], key=lambda row: row["rank"])),
        summary=tuple(_summary_of_rows(name, rows[name]) for name in names),
        notes=tuple(dict.fromkeys([f"{pooled} {_CAVEAT}", *notes_on_judgments(judged, runs, names, relevant)])),
    )


def _summary_of_rows(measure: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means, without = (np.array([row[key] for row in rows]) for key in ("mean", "without"))
    scored = means > 0
    relative = (without[scored] - means[scored]) / means[scored]
    return {
        "measure": measure,
        "mean_change": float(np.abs(relative).mean()) if scored.any() else 0.0,
        "largest_drop": float(max(0.0, -relative.min(initial=0.0))),
        "max_fall": max(row["fall"] for row in rows),
        "lowest_tau": min((row["tau"] for row in rows if row["tau"] is not None), default=None),
        "tau": kendall_tau(means, without),
    }

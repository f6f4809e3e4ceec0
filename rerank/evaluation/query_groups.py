"""Scores per group of queries. A group is, for example, a category or a language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.errors import DataError
from rerank.evaluation.evaluator import evaluate_run
from rerank.evaluation.scores import Scores
from rerank.io.text_files import open_text_file
from rerank.types import Qrels, Run

#: Name of the group for queries without a group.
NO_GROUP = "(none)"


def evaluate_by_group(
    qrels: Qrels, run: Run, measures: Iterable[str], groups: Mapping[str, str], *, relevant: int = 1
) -> dict[str, Scores]:
    """Evaluate a run on each group of queries separately.

    Measures that have only one value per run are computed for each group as well.

    Args:
        qrels: The relevance judgments.
        run: The run.
        measures: Names of the measures, in a form that `parse_measures` accepts.
        groups: Name of the group of each query id. Queries without a group, or with an empty group name, form the
            group ``(none)``.
        relevant: Lowest grade that counts as relevant in binary measures whose name does not specify one.

    Returns:
        The scores of each group, sorted by the name of the group with ``(none)`` last. Groups without a judged query
        are omitted.

    Raises:
        UsageError: The name or a parameter of a measure is wrong.
        DataError: There are no judgments, or none of the judged queries has a group.
    """
    judged: dict[str, dict[str, Mapping[str, int]]] = {}
    for query, grades in qrels.items():
        judged.setdefault(groups.get(query) or NO_GROUP, {})[query] = grades
    if not judged.keys() - {NO_GROUP}:
        raise DataError(
            f"None of the {len(qrels)} judged queries of {qrels.name} has a group; queries with a group (at most 3 "
            f"shown): {', '.join(map(repr, list(groups)[:3])) or 'none'}",
            expected="a group for at least one judged query",
        )
    names = list(measures)
    scores_by_group = {}
    for group in sorted(judged, key=lambda name: (name == NO_GROUP, name)):
        rankings = [ranking for query, ranking in run.items() if (groups.get(query) or NO_GROUP) == group]
        shared = any(ranking.query.id in judged[group] for ranking in rankings)
        scores_by_group[group] = evaluate_run(
            Qrels(judged[group], name=f"{qrels.name} ({group})"),
            Run(rankings if shared else (), name=run.name),
            names,
            relevant=relevant,
        )
    return scores_by_group


def add_groups_to_evaluation_report(
    report: Mapping[str, Any], name: str, group_scores: Sequence[Mapping[str, Scores]]
) -> dict[str, Any]:
    """Add scores per group to an evaluation report.

    Args:
        report: The result of `evaluation_report`.
        name: Name of the grouping, as given by the user.
        group_scores: One result of `evaluate_by_group` per run of the report.

    Returns:
        The report with an additional key ``by``, the name of the grouping. Each run has an additional key ``groups``,
        which maps the name of a group to ``queries``, ``missing`` and ``scores``.
    """
    runs = [
        {
            **row,
            "groups": {
                group: {"queries": len(scores.queries), "missing": len(scores.missing), "scores": scores.summary()}
                for group, scores in groups.items()
            },
        }
        for row, groups in zip(report["runs"], group_scores, strict=True)
    ]
    return {**report, "by": name, "runs": runs}


def read_query_groups(path: str | Path, *, of: str = "query") -> dict[str, str]:
    """Read a file with two columns, query id and group, and return the group of each query id.

    The first whitespace of a line separates the columns, so a group may contain spaces. Empty lines are ignored.

    Args:
        path: The file.
        of: Word for the grouped items in error messages.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: A line has no group, a query is in two groups, or the file is empty.
    """
    groups: dict[str, str] = {}
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split(maxsplit=1)
            if not fields:
                continue
            if len(fields) != 2:
                raise DataError(f"{path}:{number}: {line.strip()!r} has no group", expected=f"a {of} and its group")
            group = fields[1].strip()
            if groups.setdefault(fields[0], group) != group:
                raise DataError(f"{path}:{number}: {of} {fields[0]!r} is in two groups", expected=f"one group per {of}")
    if not groups:
        raise DataError(f"{path} is empty", expected=f"a {of} and its group per line")
    return groups

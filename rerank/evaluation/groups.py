"""Scores by group of queries: a category, a language, or whatever a file says. Knows groups as names of queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.errors import DataError
from rerank.evaluation.measuring import evaluate
from rerank.evaluation.scores import Scores
from rerank.io.text_files import open_text
from rerank.types import Qrels, Run

#: The group of queries that have none.
NO_GROUP = "(none)"


def evaluate_by(
    qrels: Qrels, run: Run, measures: Iterable[str], groups: Mapping[str, str], *, relevant: int = 1
) -> dict[str, Scores]:
    """Measure one run on each group of queries by itself, so that measures of a whole run are right for groups too.

    Args:
        qrels: The judgments.
        run: The rankings.
        measures: Names, see `parse_measures`.
        groups: Query id -> group; queries that it lacks, or with an empty group, make up the group ``(none)``.
        relevant: The lowest grade that binary measures count as relevant where their name gives none.

    Returns:
        Group -> scores, by name, ``(none)`` last; groups without a judged query are left out.

    Raises:
        UsageError: A measure's name or parameters are wrong.
        DataError: There are no judgments, or none is of a query that has a group.
    """
    judged: dict[str, dict[str, Mapping[str, int]]] = {}
    for query, grades in qrels.items():
        judged.setdefault(groups.get(query) or NO_GROUP, {})[query] = grades
    if not judged.keys() - {NO_GROUP}:
        raise DataError(
            f"None of the {len(qrels)} judged queries of {qrels.name} has a group",
            expected=f"groups of the same queries (they are for {', '.join(map(repr, list(groups)[:3])) or 'none'})",
        )
    names = list(measures)
    found = {}
    for group in sorted(judged, key=lambda name: (name == NO_GROUP, name)):
        part = [ranking for query, ranking in run.items() if (groups.get(query) or NO_GROUP) == group]
        shared = any(ranking.query.id in judged[group] for ranking in part)
        found[group] = evaluate(
            Qrels(judged[group], name=f"{qrels.name} ({group})"),
            Run(part if shared else (), name=run.name),
            names,
            relevant=relevant,
        )
    return found


def with_groups(report: Mapping[str, Any], name: str, found: Sequence[Mapping[str, Scores]]) -> dict[str, Any]:
    """The report of `evaluation_report`, with groups.

    Args:
        report: What it returned.
        name: What the groups are by, as the user named it.
        found: What `evaluate_by` gave for each run, in its order.

    Returns:
        The same, with ``by`` (the name); a run has ``groups`` too: group -> ``queries``, ``missing`` and ``scores``.
    """
    runs = [
        {
            **row,
            "groups": {
                group: {"queries": len(s.queries), "missing": len(s.missing), "scores": s.summary()}
                for group, s in groups.items()
            },
        }
        for row, groups in zip(report["runs"], found, strict=True)
    ]
    return {**report, "by": name, "runs": runs}


def read_groups(path: str | Path) -> dict[str, str]:
    """Read the groups of queries: two columns, query and group, the first white space between them.

    Raises:
        MissingResourceError: No such file.
        DataError: A line has no group, or a query has two.
    """
    groups: dict[str, str] = {}
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split(maxsplit=1)
            if not fields:
                continue
            if len(fields) != 2:
                raise DataError(f"{path}:{number}: {line.strip()!r}", expected="a query and its group")
            group = fields[1].strip()
            if groups.setdefault(fields[0], group) != group:
                raise DataError(f"{path}:{number}: query {fields[0]!r} is in two groups", expected="one for each")
    return groups

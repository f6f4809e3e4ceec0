"""What came of a suite: a row a run, and a comparison for each group of runs over the same candidates.

Rerankers are only compared where they put the same lists in order; that is checked in their folders. Several seeds of
one reranker count as one system, by its mean for each query. Knows runs that are made, not how.
"""

from __future__ import annotations

import csv
import glob
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, RerankError, StorageError
from rerank.evaluation import Comparison, Scores, compare_scores, evaluate, evaluate_all
from rerank.experiment.candidates import RetrievedCandidates, digest_run, lowest_relevant
from rerank.io.run_files import read_run
from rerank.io.text_files import replace_text
from rerank.leaderboard.suites.bench import SuiteResult
from rerank.leaderboard.suites.suite import CandidateGroup, Suite
from rerank.store import RunFolder
from rerank.types import Run

#: Name of the candidates themselves in a comparison.
FIRST_STAGE = "first stage"
_TOOK = ("queries", "calls", "tokens_in", "tokens_out", "seconds", "cost", "failure_rate", "missing", "folder", "hash")
_ENDS = (".gz", ".trec", ".run", ".txt")


def result_row(suite: Suite, made: SuiteResult) -> dict[str, Any]:
    """One line of results.jsonl."""
    run, spec, summary = made.planned.run, made.planned.spec, made.summary or {}
    return {
        "suite": suite.name,
        "collection": run.group.table.title,
        "first_stage": run.group.first_stage,
        "depth": run.group.depth,
        "system": run.system,
        "method": spec.method,
        "model": spec.model,
        "adapter": spec.adapter,
        "seed": spec.seed,
        "shuffle": spec.shuffle,
        "scores": summary.get("scores", {}),
        "first_stage_scores": summary.get("first_stage_scores", {}),
        **{key: summary.get(key) for key in _TOOK},
        "problem": made.problem,
    }


def write_results(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write results.jsonl and results.csv, each whole or not at all; in the CSV, a measure is a column.

    Raises:
        StorageError: The folder cannot be made, or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder {str(out)!r}: {error.strerror}", remedy="Name another --out"
        ) from error
    with replace_text(out / "results.jsonl") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    flat = [{**_plain(one), **one["scores"]} for one in rows]
    with replace_text(out / "results.csv") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for one in flat for key in one)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def _plain(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if not isinstance(value, Mapping)}


def compare_groups(suite: Suite, made: Sequence[SuiteResult]) -> list[dict[str, Any]]:
    """Compare the runs of each group with one another and with their candidates.

    Returns:
        A dictionary a group: ``collection``, ``first_stage``, ``depth``, ``queries``, ``systems`` (name, seeds, means
        of all measures, and ``spread`` of the tested one over the seeds: ``sd``, ``lowest``, ``highest``), ``rivals``
        (name, file, means, ``candidates`` and ``in_common``, see `_rival`), ``comparison`` (a `Comparison`, or None)
        and ``notes``.
    """
    groups: dict[str, list[SuiteResult]] = {}
    for one in made:
        groups.setdefault(str(one.planned.run.group), []).append(one)
    return [_group(suite, runs) for runs in groups.values()]


def check_same_candidates(folders: Sequence[RunFolder], expected: str) -> None:
    """Refuse runs over different candidates.

    Args:
        folders: Of the runs.
        expected: What `digest` says of the candidates.

    Raises:
        DataError: One reranked other lists.
    """
    for folder in folders:
        if folder.spec()["identity"].get("first_stage") != expected:
            raise DataError(
                f"{str(folder.path)!r} reranked other candidates than the runs that it is to be compared with",
                expected="the same lists, so that a difference is the rerankers'",
                remedy="Compare within one first stage and depth, or see all runs, labelled, in rerank leaderboard",
            )


def _group(suite: Suite, made: Sequence[SuiteResult]) -> dict[str, Any]:
    group, found = made[0].planned.run.group, made[0].planned.found
    result: dict[str, Any] = {
        "collection": group.table.title,
        "first_stage": group.first_stage,
        "depth": group.depth,
        "queries": len(found.qrels) if found else 0,
        "systems": [],
        "rivals": [],
        "comparison": None,
        "notes": [],
    }
    if found is None or not found.qrels:
        result["notes"] = ["There are no judgments, so nothing is compared."] if found else [made[0].problem]
        return result
    relevant = lowest_relevant(made[0].planned.spec, found.collection)
    systems = _systems(group, found, made, relevant)
    main = systems[0][1][0].measures[0]
    result["systems"] = [_system(name, scores, main) for name, scores in systems]
    result["rivals"], notes = _rivals(group, found, relevant)
    result["notes"] += notes
    result["notes"] += [
        f"Left out of the comparison, since it is unfinished: {one.planned.run.system}, seed {one.planned.spec.seed}. "
        f"{one.problem}"
        for one in made
        if one.summary and not _complete(one)
    ]
    try:
        result["comparison"] = _compared(suite, systems, main)
    except RerankError as error:
        result["notes"].append(f"Nothing is compared: {error}")
    return result


def _systems(
    group: CandidateGroup, found: RetrievedCandidates, made: Sequence[SuiteResult], relevant: int
) -> list[tuple[str, list[Scores]]]:
    """The candidates, and each reranker that has a finished result, with a measurement for each seed."""
    finished = [(one, RunFolder(one.summary["folder"])) for one in made if one.summary and _complete(one)]
    check_same_candidates([folder for _, folder in finished], digest_run(found.first_stage))
    runs = [found.first_stage, *(folder.read_run("run.trec") for _, folder in finished)]
    first, *rest = evaluate_all(found.qrels, runs, group.measures, relevant=relevant)
    systems: dict[str, list[Scores]] = {FIRST_STAGE: [first]}
    for (one, _), scores in zip(finished, rest, strict=True):
        systems.setdefault(one.planned.run.system, []).append(scores)
    return list(systems.items())


def _complete(one: SuiteResult) -> bool:
    """Whether every call got a reply; the plan calls other runs missing, and makes them again."""
    return bool(one.summary and one.summary.get("complete", True))


def _system(name: str, scores: Sequence[Scores], main: str) -> dict[str, Any]:
    means = [one.summary()[main] for one in scores]
    centre = math.fsum(means) / len(means)
    sd = math.sqrt(math.fsum((value - centre) ** 2 for value in means) / (len(means) - 1)) if len(means) > 1 else None
    return {
        "system": name,
        "seeds": len(scores),
        "scores": average_seeds(scores, name).summary(),
        "spread": {"sd": sd, "lowest": min(means), "highest": max(means)},
    }


def average_seeds(scores: Sequence[Scores], name: str) -> Scores:
    """Several runs of one reranker as one: the mean for every query, and of measures that only a whole run has."""
    first = scores[0]
    values = {
        measure: {query: math.fsum(one.values[measure][query] for one in scores) / len(scores) for query in row}
        for measure, row in first.values.items()
    }
    overall = {measure: math.fsum(one.overall[measure] for one in scores) / len(scores) for measure in first.overall}
    missing = tuple(query for query in first.queries if any(query in one.missing for one in scores))
    return Scores(run=name, values=values, overall=overall, queries=first.queries, missing=missing)


def _compared(suite: Suite, systems: Sequence[tuple[str, Sequence[Scores]]], main: str) -> Comparison | None:
    if len(systems) < 2:
        return None
    scores = [average_seeds(several, name) for name, several in systems]
    return compare_scores(scores, main, test=suite.test, correction=suite.correction, alpha=suite.alpha)


def _rivals(group: CandidateGroup, found: RetrievedCandidates, relevant: int) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for path in _files(group.table.rivals, notes):
        try:
            rows.append(_rival(path, group, found, relevant))
        except RerankError as error:
            notes.append(f"The rival {str(path)!r} is left out: {error}")
    rows.sort(key=lambda one: -next(iter(one["scores"].values())))
    return rows, notes


def _rival(path: Path, group: CandidateGroup, found: RetrievedCandidates, relevant: int) -> dict[str, Any]:
    """A run of somebody else: its means, and whether its lists hold the group's candidates.

    ``in_common`` is the share of the rival's documents, of its first as many as the depth, that are among the
    candidates, as a mean over the queries that it answers; ``candidates`` is ``same`` where for every query both
    are one set, else ``other``.
    """
    name = path.name
    for end in _ENDS:
        name = name.removesuffix(end)
    run = read_run(path, name=name)
    scores = evaluate(found.qrels, run, group.measures, relevant=relevant)
    shares, same = _in_common(run.top(group.depth), found.first_stage)
    return {
        "rival": name,
        "file": str(path),
        "scores": scores.summary(),
        "missing": len(scores.missing),
        "candidates": "same" if same else "other",
        "in_common": math.fsum(shares) / len(shares) if shares else None,
    }


def _in_common(run: Run, candidates: Run) -> tuple[list[float], bool]:
    shares, same = [], True
    for query, ranking in candidates.items():
        ours, theirs = set(ranking.doc_ids), set(run[query].doc_ids) if query in run else set()
        same = same and ours == theirs
        if theirs:
            shares.append(len(ours & theirs) / len(theirs))
    return shares, same


def _files(patterns: Iterable[str], notes: list[str]) -> list[Path]:
    """The files that the patterns name; one that names none is told."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
        if not paths:
            notes.append(str(MissingResourceError(f"No file of a rival at {pattern!r}", remedy="Check the path")))
        found |= dict.fromkeys(paths)
    return list(found)

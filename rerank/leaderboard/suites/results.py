"""Results of a suite: one row per run, and one comparison per group of runs with the same candidates.

Runs of the same reranker with several seeds form one system, whose score on a query is the mean over the seeds.
"""

import glob
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, RerankError, StorageError
from rerank.evaluation import Scores, compare_evaluated_runs, evaluate_run, evaluate_runs
from rerank.experiment.candidates import RetrievedCandidates, digest_run, lowest_relevant_grade
from rerank.io.reports import format_csv_table
from rerank.io.run_files import read_run
from rerank.io.text_files import replace_text_file
from rerank.leaderboard.suites.bench import SuiteResult
from rerank.leaderboard.suites.suite import CandidateGroup, Suite
from rerank.store import RunFolder

FIRST_STAGE = "first stage"  #: Name of the system that consists of the candidates in their original order.
_TOOK = ("queries", "calls", "tokens_in", "tokens_out", "seconds", "cost", "failure_rate", "missing", "folder", "hash")
_ENDS = (".gz", ".trec", ".run", ".txt")


def run_row(suite: Suite, result: SuiteResult) -> dict[str, Any]:
    """Return the JSON object for the result of a run, one line of results.jsonl."""
    run, spec, summary = result.planned.run, result.planned.spec, result.summary or {}
    return {
        "suite": suite.name,
        "collection": run.group.table.title,
        "first_stage": run.group.first_stage,
        "depth": run.group.depth,
        "system": run.system,
        **{key: getattr(spec, key) for key in ("method", "model", "adapter", "seed", "shuffle")},
        "scores": summary.get("scores", {}),
        "first_stage_scores": summary.get("first_stage_scores", {}),
        **{key: summary.get(key) for key in _TOOK},
        "problem": result.problem,
    }


def write_rows(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write results.jsonl and results.csv atomically. The CSV file has one column per measure."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot create the folder {str(out)!r}: {error.strerror}", remedy="Pass another folder with --out"
        ) from error
    with replace_text_file(out / "results.jsonl") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    flat = []
    for row in rows:
        plain = {key: value for key, value in row.items() if not isinstance(value, Mapping)}
        flat.append({**plain, **row["scores"]})
    columns = list(dict.fromkeys(key for row in flat for key in row))
    with replace_text_file(out / "results.csv") as file:
        file.write(format_csv_table(columns, ([row.get(column) for column in columns] for row in flat)))


def compare_groups(suite: Suite, results: Sequence[SuiteResult]) -> list[dict[str, Any]]:
    """Compare the runs of each group with one another and with their candidates.

    Return one dictionary per group: ``collection``, ``first_stage``, ``depth``, ``queries``, ``systems``, ``rivals``
    (rows of `_evaluate_rival`), ``comparison`` (`rerank.evaluation.Comparison` or None) and ``notes``. Each system has
    its name, the number of seeds, the means of all measures, and the ``spread`` of the tested measure over the seeds.
    """
    groups: dict[str, list[SuiteResult]] = {}
    for result in results:
        groups.setdefault(str(result.planned.run.group), []).append(result)
    return [_compare_group(suite, runs) for runs in groups.values()]


def check_candidates(folders: Sequence[RunFolder], expected: str) -> None:
    """Check that all runs reranked the same candidates; ``expected`` is their digest, from `digest_run`."""
    for folder in folders:
        if folder.spec()["identity"].get("first_stage") != expected:
            raise DataError(
                f"The run in {str(folder.path)!r} reranked other candidates than the runs it is compared with",
                expected="the same candidates, so that differences are due to the rerankers",
                remedy="Compare runs with the same first stage and depth, or show all runs with rerank leaderboard",
            )


def _compare_group(suite: Suite, results: Sequence[SuiteResult]) -> dict[str, Any]:
    group, candidates = results[0].planned.run.group, results[0].planned.candidates
    result: dict[str, Any] = {
        "collection": group.table.title,
        "first_stage": group.first_stage,
        "depth": group.depth,
        "queries": len(candidates.qrels) if candidates else 0,
        "systems": [],
        "rivals": [],
        "comparison": None,
        "notes": [],
    }
    if candidates is None or not candidates.qrels:
        result["notes"] = ["There are no judgments, so nothing is compared."] if candidates else [results[0].problem]
        return result
    relevant = lowest_relevant_grade(results[0].planned.spec, candidates.collection)
    systems = _systems_of_group(group, candidates, results, relevant)
    main = systems[0][1][0].measures[0]
    averages = [average_seeds(scores, name) for name, scores in systems]
    for (name, scores), average in zip(systems, averages, strict=True):
        means = [run_scores.summary()[main] for run_scores in scores]
        centre = math.fsum(means) / len(means)
        squares = math.fsum((value - centre) ** 2 for value in means)
        sd = math.sqrt(squares / (len(means) - 1)) if len(means) > 1 else None
        spread = {"sd": sd, "lowest": min(means), "highest": max(means)}
        result["systems"].append({"system": name, "seeds": len(scores), "scores": average.summary(), "spread": spread})
    result["rivals"], notes = _evaluate_rivals(group, candidates, relevant)
    result["notes"] += notes
    result["notes"] += [
        f"Excluded from the comparison because it is unfinished: {run.system}, seed {run.spec.seed}. {one.problem}"
        for one in results
        if (run := one.planned.run) and one.summary and not _is_complete(one)
    ]
    try:
        if len(averages) > 1:
            result["comparison"] = compare_evaluated_runs(
                averages, main, test=suite.test, correction=suite.correction, alpha=suite.alpha
            )
    except RerankError as error:
        result["notes"].append(f"Nothing is compared: {error}")
    return result


def _systems_of_group(
    group: CandidateGroup, candidates: RetrievedCandidates, results: Sequence[SuiteResult], relevant: int
) -> list[tuple[str, list[Scores]]]:
    """Return the systems to compare, each with its name and one `Scores` per seed: first stage, then rerankers."""
    finished = [
        (result, RunFolder(result.summary["folder"])) for result in results if result.summary and _is_complete(result)
    ]
    check_candidates([folder for _, folder in finished], digest_run(candidates.first_stage))
    runs = [candidates.first_stage, *(folder.read_run("run.trec") for _, folder in finished)]
    first, *rest = evaluate_runs(candidates.qrels, runs, group.measures, relevant=relevant)
    systems: dict[str, list[Scores]] = {FIRST_STAGE: [first]}
    for (result, _), scores in zip(finished, rest, strict=True):
        systems.setdefault(result.planned.run.system, []).append(scores)
    return list(systems.items())


def _is_complete(result: SuiteResult) -> bool:
    """Return True if every call of the run received a reply; other runs count as missing and are resumed."""
    return bool(result.summary and result.summary["complete"])


def average_seeds(scores: Sequence[Scores], name: str) -> Scores:
    """Average the scores of several runs of one reranker: per-query values, and values of whole-run measures."""
    first = scores[0]
    values = {
        measure: {query: math.fsum(one.values[measure][query] for one in scores) / len(scores) for query in row}
        for measure, row in first.values.items()
    }
    overall = {measure: math.fsum(one.overall[measure] for one in scores) / len(scores) for measure in first.overall}
    missing = tuple(query for query in first.queries if any(query in one.missing for one in scores))
    return Scores(run=name, values=values, overall=overall, queries=first.queries, missing=missing)


def _evaluate_rivals(
    group: CandidateGroup, candidates: RetrievedCandidates, relevant: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Evaluate the external runs that match the patterns of a collection; a pattern without a match gives a note."""
    files: dict[Path, None] = {}
    notes: list[str] = []
    for pattern in group.table.rivals:
        paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
        if not paths:
            notes.append(str(MissingResourceError(f"No file of a rival matches {pattern!r}", remedy="Check the path")))
        files |= dict.fromkeys(paths)
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            rows.append(_evaluate_rival(path, group, candidates, relevant))
        except RerankError as error:
            notes.append(f"The rival {str(path)!r} is excluded: {error}")
    rows.sort(key=lambda row: -next(iter(row["scores"].values())))
    return rows, notes


def _evaluate_rival(
    path: Path, group: CandidateGroup, candidates: RetrievedCandidates, relevant: int
) -> dict[str, Any]:
    """Evaluate an external run, truncated to the depth of the group, and compare its documents with the candidates.

    ``in_common`` is the fraction of its documents that are candidates, averaged over its queries. ``candidates`` is
    ``same`` if both sets are equal for every query.
    """
    name = path.name
    for end in _ENDS:
        name = name.removesuffix(end)
    run = read_run(path, name=name)
    scores = evaluate_run(candidates.qrels, run, group.measures, relevant=relevant)
    top, shares, same = run.top(group.depth), [], True
    for query, ranking in candidates.first_stage.items():
        ours, theirs = set(ranking.doc_ids), set(top[query].doc_ids) if query in top else set()
        same = same and ours == theirs
        if theirs:
            shares.append(len(ours & theirs) / len(theirs))
    return {
        "rival": name,
        "file": str(path),
        "scores": scores.summary(),
        "missing": len(scores.missing),
        "candidates": "same" if same else "other",
        "in_common": math.fsum(shares) / len(shares) if shares else None,
    }

"""Function that writes a run as the result of an mteb task, in the folder structure of mteb's results repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.collections.mteb import find_task, import_mteb
from rerank.errors import DataError, UsageError
from rerank.mmteb.model_meta import compute_mteb_revision, make_mteb_model_meta
from rerank.types import Qrels, Run


def write_run_as_mteb_result(
    run: Run, qrels: Qrels, task_name: str, out: Path, *, identity: Mapping[str, Any], seconds: float = 0.0
) -> Path:
    """Score a run with mteb's measures, and write mteb's result file and the metadata of the model.

    Args:
        run: The run; its name becomes the name of the model.
        qrels: The judgments of the task.
        task_name: Name of a task of mteb with one split and one subset.
        out: Folder of the results; the file is OUT/results/listrank__NAME/REVISION/TASK.json.
        identity: Values that determine the result, from which the revision is computed.
        seconds: Evaluation time for the result file.

    Returns:
        Path of the result file. ``mteb.ResultCache(OUT).load_results()`` reads it.
    """
    task = find_task(task_name)
    subsets = list(task.metadata.hf_subsets_to_langscripts)
    if len(task.metadata.eval_splits) != 1 or len(subsets) != 1:
        raise UsageError(
            f"{task_name} has {len(task.metadata.eval_splits)} splits and {len(subsets)} subsets",
            expected="a task with one split and one subset, because a run has one set of queries",
        )
    if missing := [query for query in qrels if query not in run or not len(run[query])]:
        raise DataError(
            f"Run {run.name!r} has no list for {len(missing)} of {len(qrels)} judged queries, such as {missing[0]!r}",
            expected="a list for every judged query, because mteb omits queries without a list from its means",
        )
    scores = {**_score_run_as_mteb_does(run, qrels, task)}
    scores["main_score"] = scores[task.metadata.main_score]
    mteb = import_mteb()
    from mteb.results import TaskResult

    result = TaskResult.from_task_results(task, {task.metadata.eval_splits[0]: {subsets[0]: scores}}, seconds)
    meta = make_mteb_model_meta(run.name, compute_mteb_revision(identity), kind="cross-encoder")
    cache = mteb.ResultCache(out)
    cache.save_to_cache(result, meta)
    return Path(cache.get_task_result_path(task_name, meta))


def _score_run_as_mteb_does(run: Run, qrels: Qrels, task: Any) -> dict[str, Any]:
    """Return a mapping from the names of measures to the scores that mteb computes for a run."""
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, make_score_dict

    results = {
        query: {
            doc: score
            for doc, score in zip(run[query].doc_ids, run[query].scores, strict=True)
            if doc != query or not task.ignore_identical_ids
        }
        for query in qrels
    }
    grades = {query: dict(judged) for query, judged in qrels.judged().items()}
    found = calculate_retrieval_scores(results, grades, list(task.k_values))
    return dict(
        make_score_dict(
            ndcg=found.ndcg,
            _map=found.map,
            recall=found.recall,
            precision=found.precision,
            mrr=found.mrr,
            naucs=found.naucs,
            naucs_mrr=found.naucs_mrr,
            hit_rate=found.hit_rate,
            task_scores={},
        )
    )

"""Functions that list and describe the retrieval and reranking tasks in mteb's benchmarks, without loading data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerank.collections.mteb import find_task, import_mteb
from rerank.errors import UnknownNameError, UsageError

#: The benchmarks with which this package is tested. `list_mteb_tasks` accepts all benchmarks of mteb.
BENCHMARKS = ("MTEB(Multilingual, v2)", "MTEB(eng, v2)", "MTEB(cmn, v1)")
#: Types of tasks that rank texts for a query.
KINDS = ("Retrieval", "Reranking", "InstructionReranking")


def list_mteb_tasks(benchmark: str = "", names: Sequence[str] = (), kinds: Sequence[str] = KINDS) -> list[Any]:
    """Return the text ranking tasks of a benchmark. Each task has the splits and subsets of the benchmark.

    Args:
        benchmark: Name or alias of the benchmark, such as ``MMTEB``; empty to select tasks only by name.
        names: Return only tasks with these names; empty for all tasks of the benchmark.
        kinds: Return only tasks of these types. Without a benchmark, tasks are not filtered by type.

    Raises:
        UnknownNameError: The benchmark, task or type does not exist. The message suggests the nearest name.
        UsageError: Neither a benchmark nor a task is given, or no task matches.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("type of task", kind, KINDS)
    if not benchmark:
        if not names:
            raise UsageError("Neither a benchmark nor a task is given", remedy=f"Pass --benchmark {BENCHMARKS[1]!r}")
        return [find_task(name) for name in names]
    mteb = import_mteb()
    try:
        found_benchmark = mteb.get_benchmark(benchmark)
    except KeyError as error:
        raise UnknownNameError("benchmark", benchmark, [known.name for known in mteb.get_benchmarks()]) from error
    tasks = {
        task.metadata.name: task
        for task in found_benchmark.tasks
        if _is_mteb_text_ranking(task) and task.metadata.type in kinds
    }
    for name in names:
        if name not in tasks:
            raise UnknownNameError(f"task of {benchmark}:", name, tasks)
    if not tasks:
        raise UsageError(f"{benchmark} contains no task of the type {' or '.join(kinds)}", expected="at least one")
    return [tasks[name] for name in dict.fromkeys(names)] if names else list(tasks.values())


def describe_mteb_task(task: Any) -> dict[str, Any]:
    """Return a description of a task: name, type, languages, subsets, splits, main score, licence and data source."""
    metadata = task.metadata
    return {
        "task": metadata.name,
        "type": metadata.type,
        "languages": sorted(set(task.languages)),
        "subsets": len(task.hf_subsets),
        "splits": list(task.eval_splits),
        "main_score": metadata.main_score,
        "licence": metadata.license or "not specified",
        "data": metadata.dataset.get("path", ""),
        "revision": metadata.dataset.get("revision", ""),
    }


def _is_mteb_text_ranking(task: Any) -> bool:
    return hasattr(task, "convert_to_reranking") and list(task.metadata.modalities) == ["text"]

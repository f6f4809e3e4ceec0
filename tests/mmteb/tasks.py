"""Real tasks of mteb over data that the tests write: retrieval, reranking, several subsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("mteb")

import datasets
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

DOCS = {
    "d1": "A glacier is a large mass of ice that moves slowly over land.",
    "d2": "Bread dough rises because yeast gives off gas.",
    "d3": "Glaciers melt faster when summers are warm.",
    "d4": "The violin has four strings and is played with a bow.",
    "d5": "Yeast is a fungus used in baking bread and brewing beer.",
    "d6": "A cello is larger than a violin and sounds lower.",
}
QUERIES = {"q1": "why do glaciers melt", "q2": "yeast in bread", "q3": "violin and cello"}
RELEVANT = {"q1": {"d3": 1}, "q2": {"d2": 1, "d5": 2}, "q3": {"d6": 1, "d4": 1}}
LISTS = {"q1": ["d3", "d1", "d2", "d4"], "q2": ["d5", "d2", "d1", "d3"], "q3": ["d6", "d4", "d1", "d2"]}


def metadata(name: str, kind: str, **more: Any) -> TaskMetadata:
    values: dict[str, Any] = {
        "name": name,
        "description": "Written for tests.",
        "type": kind,
        "category": "t2t",
        "dataset": {"path": "local/none", "revision": "1"},
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn"],
        "main_score": "ndcg_at_10",
        "license": "cc0-1.0",
    }
    return TaskMetadata(**{**values, **more})


class LocalRetrieval(AbsTaskRetrieval):
    metadata = metadata("LocalRetrieval", "Retrieval")


class LocalSelf(AbsTaskRetrieval):
    """One where a document with the query's id does not count, as in ArguAna."""

    metadata = metadata("LocalSelf", "Retrieval")
    ignore_identical_ids = True


class LocalReranking(AbsTaskRetrieval):
    metadata = metadata("LocalReranking", "Reranking", main_score="map_at_1000")


class LocalSubsets(AbsTaskRetrieval):
    metadata = metadata(
        "LocalSubsets",
        "Retrieval",
        eval_langs={"en": ["eng-Latn"], "zh": ["cmn-Hans"], "en-ar": ["eng-Latn", "arb-Arab"]},
    )


def rows(texts: Mapping[str, Any], **columns: Mapping[str, Any]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {
                "id": key,
                "text": value,
                **{name: c.get(key, "" if name == "title" else None) for name, c in columns.items()},
            }
            for key, value in texts.items()
        ]
    )


def part(
    docs: Mapping[str, str] = DOCS,
    queries: Mapping[str, Any] = QUERIES,
    relevant: Mapping[str, Mapping[str, int]] = RELEVANT,
    lists: Mapping[str, list[str]] | None = None,
) -> dict[str, Any]:
    return {
        "corpus": rows(docs, title={}),
        "queries": rows(queries),
        "relevant_docs": {query: dict(judged) for query, judged in relevant.items()},
        "top_ranked": None if lists is None else dict(lists),
    }


def filled(task: AbsTaskRetrieval, **parts: Any) -> Any:
    """The task with data: of the subset ``default``, or of those named."""
    split = task.metadata.eval_splits[0]
    given = parts or {"default": part(lists=LISTS if task.metadata.type == "Reranking" else None)}
    task.dataset = {subset.replace("_", "-"): {split: data} for subset, data in given.items()}
    task.data_loaded = True
    return task

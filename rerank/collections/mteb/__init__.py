"""Provider of the retrieval and reranking tasks of mteb (MTEB and MMTEB), opened by their names.

The package mteb is imported when a task is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rerank.collections.base.files import check_collection_language_code, require_collection_path
from rerank.collections.mteb.library import (
    check_mteb_collection_task,
    find_mteb_collection_task,
    language_of_mteb_collection,
    load_mteb_collection_task,
)
from rerank.collections.mteb.task_split import TaskSplit, escape_mteb_collection_id, open_mteb_collection_split
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.io.settings_files import read_json_object
from rerank.types import Document, Qrels, Query, Run

_SHOWN = 12


class Mteb:
    """A subset and split of one of mteb's tasks, e.g. ``T2Reranking``; needs ``listrank[mteb]``.

    The lists of a reranking task are the candidates. In many tasks, a list starts with the relevant documents, so use
    ``--shuffle random``; otherwise, a reranker that keeps the input order would have a perfect score.

    Args:
        task: Name of the task.
        subset: Name of the subset, usually a language; required if the task has several subsets.
        split: Name of the split; required if mteb evaluates several splits.
        predictions: File, or its folder, with first-stage rankings saved by
            ``mteb.evaluate(..., prediction_folder=...)``, which become the candidates; empty for the task's own lists.
        top_k: Maximum number of documents to use from each ranking in ``predictions``.
        language: ISO 639 code of the documents' language, ``mul`` for several languages, ``und`` for none; empty for
            the language that mteb states.

    Attributes:
        relevant: Always 1, since mteb's binary measures count every grade above 0 as relevant.
    """

    def __init__(
        self,
        task: str,
        *,
        subset: str = "",
        split: str = "",
        predictions: str = "",
        top_k: int = 100,
        language: str = "",
    ) -> None:
        """Look up the task without downloading data."""
        self._open(find_mteb_collection_task(task), subset, split, language)
        self._saved = mteb_collection_predictions_file(predictions, task) if predictions else None
        self._top_k = top_k

    @classmethod
    def from_task(cls, task: Any, *, subset: str = "", split: str = "") -> Mteb:
        """Return the collection for a task object, such as a task that is not registered in mteb."""
        collection = cls.__new__(cls)
        collection._open(check_mteb_collection_task(task), subset, split)
        collection._saved, collection._top_k = None, 100
        return collection

    def _open(self, task: Any, subset: str, split: str, language: str = "") -> None:
        self.relevant = 1
        self._task = task
        self._subset = _choose_subset_or_split("subset", subset, task.hf_subsets, task.metadata.name)
        self._split = _choose_subset_or_split("split", split, task.eval_splits, task.metadata.name)
        parts = [task.metadata.name, *([] if self._subset == "default" else [self._subset]), self._split]
        self.name = escape_mteb_collection_id("/".join(parts))
        self.language = (
            check_collection_language_code(language)
            if language
            else language_of_mteb_collection(task.metadata, self._subset)
        )
        self.drop_self = bool(task.ignore_identical_ids)

    @cached_property
    def _task_split(self) -> TaskSplit:
        task = load_mteb_collection_task(self._task)
        if self._saved is None:
            return open_mteb_collection_split(task, self._subset, self._split)
        lists = read_mteb_collection_predictions(self._saved, self._subset, self._split)
        best = top_collection_candidates(lists, self._top_k)
        return open_mteb_collection_split(task, self._subset, self._split, candidates=best)

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the documents."""
        return self._task_split.docs()

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; unknown ids are omitted."""
        return self._task_split.lookup(ids)

    def queries(self) -> list[Query]:
        """Return the judged queries, with their instructions in the text as in mteb; all queries if none is judged."""
        return self._task_split.queries()

    def qrels(self) -> Qrels:
        """Return the judgments."""
        return self._task_split.qrels()

    def excluded(self) -> Mapping[str, frozenset[str]]:
        """Return, by query id, the documents that must not be ranked for the query, as in the benchmark BRIGHT."""
        return self._task_split.excluded()

    def candidates(self) -> Run:
        """Return the predictions or, if none are given, the task's candidate lists, with document texts."""
        return self._task_split.candidates()

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the task, the candidate lists, and the data set's commit or, without a commit, its texts."""
        return self._task_split.fingerprint


def _choose_subset_or_split(kind: str, name: str, known: Sequence[str], task: str) -> str:
    """Return the name of a subset or split after checking it; if ``name`` is empty, return the only one."""
    if name and name not in known:
        raise UnknownNameError(f"{kind} of {task}:", name, known)
    if not name and len(known) > 1:
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise UsageError(
            f"The task {task} has {len(known)} {kind}s",
            expected=f"one of {', '.join(known[:_SHOWN])}{more}",
            remedy=f"Set the option {kind}, as in mteb:{task},{kind}={known[0]}",
        )
    return name or known[0]


def mteb_collection_predictions_file(path: str | Path, task: str) -> Path:
    """Return the file with a task's predictions: ``path`` or, if it is a folder, the file that mteb writes into it."""
    expanded = require_collection_path(path, "predictions saved by mteb, a JSON file or its folder")
    return (
        require_collection_path(expanded / f"{task}_predictions.json", f"the predictions for {task}")
        if expanded.is_dir()
        else expanded
    )


def read_mteb_collection_predictions(path: Path, subset: str, split: str) -> Mapping[str, Mapping[str, float]]:
    """Return the scores of one subset and split, read from a file saved by ``mteb.evaluate``.

    Returns:
        A mapping query -> document -> score.
    """
    saved = read_json_object(path, "file of predictions")
    try:
        lists = saved[subset][split]
        return {str(query): {str(doc): float(score) for doc, score in docs.items()} for query, docs in lists.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} has no predictions for the subset {subset!r} and the split {split!r} ({error!r:.100})",
            expected="{subset: {split: {query: {document: score}}}}, as mteb saves with prediction_folder",
        ) from error


def top_collection_candidates(lists: Mapping[str, Mapping[str, float]], top_k: int) -> dict[str, list[str]]:
    """Return a mapping from each query to its ``top_k`` documents with the highest scores, best first.

    Tied documents keep their input order, as in mteb.
    """
    if top_k < 1:
        raise UsageError(f"The collection 'mteb' has the option top_k={top_k}", expected="at least 1")
    return {query: sorted(docs, key=lambda doc: docs[doc], reverse=True)[:top_k] for query, docs in lists.items()}

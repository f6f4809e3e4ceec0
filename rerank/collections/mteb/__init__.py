"""Retrieval and reranking tasks of mteb (MTEB and MMTEB) by their names; the package is imported when one is opened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rerank.collections.base.files import checked_language, existing
from rerank.collections.mteb.package import checked, language_of, load, named
from rerank.collections.mteb.part import Part, part_of, writable
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.types import Document, Qrels, Query, Run

_SHOWN = 12


class Mteb:
    """A subset and split of one of mteb's tasks, e.g. ``T2Reranking``; needs ``listrank[mteb]``.

    The lists of a reranking task are the candidates. Those of many tasks stand with the relevant documents first, so
    give them to a reranker with ``--shuffle random``: a reply that says nothing would else be a perfect one.

    Args:
        task: The task's name.
        subset: Needed where the task has several, which are mostly languages.
        split: Needed where mteb evaluates several.
        predictions: What ``mteb.evaluate(..., prediction_folder=...)`` saved of a first stage, the file or its folder;
            its lists are the candidates then.
        top_k: How many documents of each such list.
        language: ISO 639 code of the documents; by default mteb's, ``mul`` for several, ``und`` for one without a code.

    Attributes:
        relevant: 1: mteb's binary measures count every grade above 0.

    Raises:
        MissingPrerequisiteError: mteb is not installed.
        UnknownNameError: No such task, subset or split; the message suggests the nearest.
        UsageError: The task ranks no texts, or its subset or split must be named.
        MissingResourceError: No such predictions.
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
        """Look the task up; nothing is downloaded yet."""
        self._open(named(task), subset, split, language)
        self._saved = saved_at(predictions, task) if predictions else None
        self._top_k = top_k

    @classmethod
    def of(cls, task: Any, *, subset: str = "", split: str = "") -> Mteb:
        """The part of a task that is at hand, such as one that mteb does not list."""
        made = cls.__new__(cls)
        made._open(checked(task), subset, split)
        made._saved, made._top_k = None, 100
        return made

    def _open(self, task: Any, subset: str, split: str, language: str = "") -> None:
        self.relevant = 1
        self._task = task
        self._subset = _chosen("subset", subset, task.hf_subsets, task.metadata.name)
        self._split = _chosen("split", split, task.eval_splits, task.metadata.name)
        parts = [task.metadata.name, *([] if self._subset == "default" else [self._subset]), self._split]
        self.name = writable("/".join(parts))
        self.language = checked_language(language) if language else language_of(task.metadata, self._subset)
        self.drop_self = bool(task.ignore_identical_ids)

    @cached_property
    def _part(self) -> Part:
        task = load(self._task)
        if self._saved is None:
            return part_of(task, self._subset, self._split)
        lists = read_predictions(self._saved, self._subset, self._split)
        data = {**task.dataset[self._subset][self._split], "top_ranked": cut(lists, self._top_k)}
        return Part(task.metadata, self._subset, self._split, data, drop_self=self.drop_self)

    def docs(self) -> Iterator[Document]:
        """Stream the documents.

        Raises:
            MissingResourceError: They cannot be downloaded.
        """
        return self._part.docs()

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """The documents with these ids; ids that do not exist are left out."""
        return self._part.lookup(ids)

    def queries(self) -> list[Query]:
        """The queries that have judgments; an instruction follows the query's text."""
        return self._part.queries()

    def qrels(self) -> Qrels:
        """The judgments."""
        return self._part.qrels()

    def candidates(self) -> Run:
        """The task's own lists, or those of the predictions, with the documents' texts."""
        return self._part.candidates()

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the task and its data set's commit, and of the lists; of the texts where there is none."""
        return self._part.fingerprint


def _chosen(kind: str, name: str, known: Sequence[str], task: str) -> str:
    """The subset or split that is meant.

    Raises:
        UnknownNameError: There is none of that name.
        UsageError: There are several and none is named.
    """
    if name and name not in known:
        raise UnknownNameError(f"{kind} of {task}:", name, known)
    if not name and len(known) > 1:
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise UsageError(
            f"The task {task} has {len(known)} {kind}s",
            expected=f"one of {', '.join(known[:_SHOWN])}{more}",
            remedy=f"Name it: mteb:{task},{kind}={known[0]}",
        )
    return name or known[0]


def saved_at(place: str | Path, task: str) -> Path:
    """The file with a task's predictions: the path itself, or in a folder the file that mteb writes there."""
    found = existing(place, "predictions that mteb saved, a JSON file or its folder")
    return existing(found / f"{task}_predictions.json", f"the predictions for {task}") if found.is_dir() else found


def read_predictions(path: Path, subset: str, split: str) -> Mapping[str, Mapping[str, float]]:
    """Query -> document -> score of one part, from a file that ``mteb.evaluate`` saved.

    Raises:
        DataError: The file is not one, or lacks the part.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        lists = saved[subset][split]
        return {str(query): {str(doc): float(score) for doc, score in docs.items()} for query, docs in lists.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no predictions for the subset {subset!r} and the split {split!r} ({error!r:.100})",
            expected="{subset: {split: {query: {document: score}}}}, as mteb saves with prediction_folder",
        ) from error


def cut(lists: Mapping[str, Mapping[str, float]], top_k: int) -> dict[str, list[str]]:
    """Query -> the documents with the highest scores, best first; equal scores in the order given, as mteb does.

    Raises:
        UsageError: ``top_k`` is below 1.
    """
    if top_k < 1:
        raise UsageError(f"top_k={top_k}", expected="at least 1")
    return {query: sorted(docs, key=lambda doc: docs[doc], reverse=True)[:top_k] for query, docs in lists.items()}

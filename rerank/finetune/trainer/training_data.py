"""Function that reads the training lists of a recipe and the lists that are held out of the training."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

from rerank.collections import open_collection
from rerank.errors import DataError, UsageError
from rerank.finetune.labels.leaks import normalise_query_for_leaks
from rerank.finetune.labels.list_files import read_label_lists_of_file
from rerank.finetune.labels.splits import hold_out_training_lists
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.recipe import Recipe


def read_training_and_held_out_lists(
    recipe: Recipe, pinned: Mapping[str, str] | None = None
) -> tuple[list[TrainingList], list[TrainingList]]:
    """Return the training lists and the held-out lists of a recipe; lists with a single document are skipped.

    Args:
        recipe: The recipe.
        pinned: Mapping from the selectors of data sets in the recipe to the selectors that are read instead, as
            returned by `pin_hub_datasets`; None to read the data sets as named in the recipe.
    """
    data, table = recipe.data, recipe.validation
    selectors = [data.collection] * len(data.lists) if isinstance(data.collection, str) else data.collection
    exact = pinned or {}
    train, held = _read_lists([exact.get(path, path) for path in data.lists], selectors, data.max_lists), []
    if table and table.lists:
        selector = table.documents_in or (data.collection if isinstance(data.collection, str) else selectors[0])
        if not table.documents_in and len(set(selectors)) > 1:
            raise UsageError(
                "[data] lists several collections, but [validation] does not state the collection of its lists",
                expected="documents_in in [validation]",
            )
        held = _read_lists([exact.get(path, path) for path in table.lists], [selector] * len(table.lists))
    if table and table.share:
        train, more = hold_out_training_lists(train, table.share, seed=recipe.seed)
        held += more
    trained = {normalise_query_for_leaks(entry.query.text) for entry in train}
    if leaks := [entry.query.text for entry in held if normalise_query_for_leaks(entry.query.text) in trained]:
        raise DataError(
            f"{len(leaks)} held-out lists have queries that are also in the training lists, such as {leaks[0]!r}",
            expected="lists of other queries",
            remedy="Split the lists by query with `rerank label split`, or use share in [validation]",
        )
    return train, held


def _read_lists(paths: Sequence[str], selectors: Sequence[str], limit: int | None = None) -> list[TrainingList]:
    skipped: Counter[str] = Counter()
    lists: list[TrainingList] = []
    for path, selector in zip(paths, selectors, strict=True):
        collection = open_collection(selector) if selector else None
        lists += read_label_lists_of_file(path, collection, skipped=skipped)
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Some training lists were skipped: {reasons}", stacklevel=3)
    lists = [training_list for training_list in lists[:limit] if len(training_list) > 1]
    if not paths:
        raise UsageError("data.lists is empty", expected="at least one label file or data set")
    if not lists:
        raise DataError(f"No list in {', '.join(paths)} has two or more documents", expected="at least one such list")
    return lists

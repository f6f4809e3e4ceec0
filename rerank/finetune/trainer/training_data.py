"""Reading the training lists of a recipe."""

from __future__ import annotations

import warnings
from collections import Counter

from rerank.collections import open_collection
from rerank.errors import DataError
from rerank.finetune.labels.list_files import read_label_lists_of_file
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.recipe import Recipe


def read_training_lists(recipe: Recipe) -> list[TrainingList]:
    """Read the label files of a recipe; lists with a single document are skipped.

    Raises:
        DataError: A file is invalid, or no list has two documents.
    """
    data = recipe.data
    selectors = [data.collection] * len(data.lists) if isinstance(data.collection, str) else data.collection
    skipped: Counter[str] = Counter()
    lists: list[TrainingList] = []
    for path, selector in zip(data.lists, selectors, strict=True):
        collection = open_collection(selector) if selector else None
        lists += read_label_lists_of_file(path, collection, skipped=skipped)
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Some training lists were skipped: {reasons}", stacklevel=2)
    lists = [training_list for training_list in lists[: data.max_lists] if len(training_list) > 1]
    if not lists:
        raise DataError(
            f"No list in {', '.join(data.lists)} has two or more documents", expected="at least one list to train on"
        )
    return lists

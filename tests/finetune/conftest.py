"""A tiny model and a collection on disk, made once a module, for whole trainings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.finetune.small import model_folder  # brings torch, which not every suite has

    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.finetune.small import collection_folder

    return collection_folder(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def recipe_of(model: Path, collection: Path) -> Callable[..., Any]:
    """Makes recipes for the model and the collection of a test, from changed tables."""
    from tests.finetune.small import recipe

    return partial(recipe, model, collection)

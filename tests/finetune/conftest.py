"""A tiny model and a collection on disk, made once a module, for whole trainings."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.finetune.small import model_folder  # brings torch, which not every suite has

    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.finetune.small import collection_folder

    return collection_folder(tmp_path_factory.mktemp("collection"))

"""Computation of content hashes for the files and models that are named in the options of a first stage.

Rankings depend on the content of these files, not only on their names. A model on the hub has no local files before it
is loaded; its version is identified by the option ``revision``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from rerank.errors import DataError
from rerank.io.file_hashes import file_hash, folder_hash
from rerank.io.model_hash import hash_encoder_folder
from rerank.models import MODELS, model_folder
from rerank.retrieval import first_stages
from rerank.retrieval.base import HasNestedStages
from rerank.selector import build_from_selector


def hash_mteb_model_contents(selector: str) -> dict[str, str]:
    """Return the SHA-256 of each file, folder and known model that a first stage's options name, by its name.

    Paths that do not exist are omitted. They raise an error when the first stage is opened.
    """
    paths = {
        text: _local_path_of_mteb_model(text)
        for text in _option_texts_of_mteb_stage(build_from_selector(first_stages, selector))
    }
    return {text: _hash_mteb_model_file(path) for text, path in paths.items() if path is not None}


def _option_texts_of_mteb_stage(stage: Any) -> Iterator[str]:
    """Yield the values of all string options, including defaults, of a first stage and of its nested first stages."""
    if isinstance(stage, HasNestedStages):
        for selector in stage.nested_stages:
            yield from _option_texts_of_mteb_stage(build_from_selector(first_stages, selector))
    yield from (getattr(stage, field.name) for field in fields(stage) if field.type in ("str", str))


def _local_path_of_mteb_model(text: str) -> Path | None:
    path = model_folder(text) if text in MODELS else Path(text).expanduser() if text else None
    # os.path.exists raises no error if the selector of a nested stage is too long for a file name.
    return path if path is not None and os.path.exists(path) else None


def _hash_mteb_model_file(path: Path) -> str:
    if not path.is_dir():
        return file_hash(path)
    if not any((path / name).is_file() for name in ("config.json", "modules.json")):
        return folder_hash(path)
    try:
        # The hash stays the same if a model is saved again with the same weights and settings.
        return hash_encoder_folder(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} has a malformed list of modules ({error!r})", expected="a model's folder") from error

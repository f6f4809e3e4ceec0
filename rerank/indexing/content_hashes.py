"""What the files and models that a first stage names hold: another content gives other lists under the same name.

Knows no corpus. A model on the hub has no content here until it is loaded; its option ``revision`` tells its versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from rerank.errors import DataError
from rerank.io.file_hashes import file_hash, folder_hash
from rerank.models import MODELS, folder_of
from rerank.retrieval import first_stages
from rerank.retrieval.hybrid import Hybrid, split_stages
from rerank.selector import build


def content_of(selector: str) -> dict[str, str]:
    """Every file, folder and known model that a first stage names -> hex SHA-256 of its content.

    Those that are not there are left out: opening the first stage says so.

    Raises:
        RerankError: No such first stage or option, or a file that cannot be read.
    """
    return {text: _hashed(place) for text in _texts(build(first_stages, selector)) if (place := _place(text))}


def _texts(stage: Any) -> Iterator[str]:
    """All that a stage's options say in free text, that of a hybrid's stages too; also what is so by default."""
    if isinstance(stage, Hybrid):
        for one in split_stages(stage.stages):
            yield from _texts(build(first_stages, one))
        return
    yield from (getattr(stage, field.name) for field in fields(stage) if field.type in ("str", str))


def _place(text: str) -> Path | None:
    place = folder_of(text) if text in MODELS else Path(text).expanduser() if text else None
    return place if place is not None and place.exists() else None


def _hashed(place: Path) -> str:
    from rerank.indexing.text_encoder import model_hash

    if not place.is_dir():
        return file_hash(place)
    if not any((place / name).is_file() for name in ("config.json", "modules.json")):
        return folder_hash(place)
    try:
        return model_hash(place)  # a model that was saved again, with the same weights and settings, is the same
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place} lists its parts in another form ({error!r})", expected="a model's folder") from error

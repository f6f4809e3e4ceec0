"""What mteb wants to know of a model: its name and revision name the folder of its results. Knows no results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rerank.collections.mteb.library import import_mteb

#: Before the slash in our models' names.
ORGANISATION = "listrank"


def compute_revision(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits that stand for everything that decides a result."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def model_meta(name: str, revision: str, *, kind: str, **known: Any) -> Any:
    """Describe one of our models to mteb; what is not known is None.

    Args:
        name: What it is called; signs that a folder's name cannot have become dashes.
        revision: See `compute_revision`.
        kind: mteb's type of model: ``cross-encoder``, ``dense``, ``sparse`` or ``hybrid``.
        known: Further fields.
    """
    import_mteb()
    from mteb.models import ModelMeta

    unknown = dict.fromkeys(
        (
            *("release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens", "embed_dim", "license"),
            *("open_weights", "public_training_code", "public_training_data", "similarity_fn_name"),
            *("use_instructions", "training_datasets"),
        )
    )
    return ModelMeta(
        loader=None,
        name=f"{ORGANISATION}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-')}",
        revision=revision,
        framework=[],
        model_type=[kind],
        **{**unknown, **known},
    )

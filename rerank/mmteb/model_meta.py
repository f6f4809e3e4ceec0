"""Creation of mteb's metadata for models. Name and revision in the metadata determine the folder of the results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rerank.collections.mteb import import_mteb

#: Organisation in the names of the models, before the slash.
ORGANISATION = "listrank"


def compute_mteb_revision(identity: Mapping[str, Any]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of an identity (all values that determine a result)."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_mteb_model_meta(name: str, revision: str, *, kind: str, **known: Any) -> Any:
    """Create the metadata of a model for mteb. Unknown fields are None.

    Args:
        name: Name of the model. Characters that are invalid in folder names are replaced by dashes.
        revision: Revision, as returned by `compute_mteb_revision`.
        kind: Model type of mteb: ``cross-encoder``, ``dense``, ``sparse`` or ``hybrid``.
        known: Further metadata fields.
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

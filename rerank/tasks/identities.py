"""What the identities of backends have in common: the model behind wrappers, and identities without a commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rerank.io.model_base import ModelBase

_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_base_of_backend(backend: Any) -> ModelBase | None:
    """Return the published model whose weights a backend, or the backend that it wraps, runs; None if not known."""
    while backend is not None:
        base: ModelBase | None = getattr(backend, "base", None)
        if base is not None:
            return base
        backend = getattr(backend, "backend", None)
    return None


def lacks_commit(recorded: Mapping[str, str], current: Mapping[str, str], revision: str | None = None) -> bool:
    """Return whether two identities of a model on the hub differ only in a commit that was not recorded.

    With transformers 5.24 or later, earlier versions of this package recorded the revision that the user named.

    Args:
        recorded: The recorded identity.
        current: The identity of the model in use.
        revision: The revision that the user names now; None if it is not known.
    """
    branch = recorded.get("revision", "")
    return (
        bool(_COMMIT.fullmatch(current.get("revision", "")))
        and not _COMMIT.fullmatch(branch)
        and revision in (None, branch)
        and {**recorded, "revision": ""} == {**current, "revision": ""}
    )

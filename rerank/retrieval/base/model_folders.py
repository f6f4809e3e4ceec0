"""Lookup of the model of a first stage by the name of a preset, a local folder or an id on the hub."""

from pathlib import Path

from rerank.errors import UsageError
from rerank.io.model_base import MODULES
from rerank.models import MODELS, resolve_model_name


def locate_retrieval_model(name: str, *, kind: str = "embedding") -> Path | str:
    """Return the local folder or hub id of a model; with ``modules.json``, the weights may be in sub-folders."""
    if name in MODELS and (other := MODELS[name].kind) != kind:
        example = next((card.name for card in MODELS.values() if card.kind == kind), "")
        raise UsageError(
            f"{name!r} is {'a language' if other != 'embedding' else 'an embedding'} model",
            expected=f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} model"
            + (f", such as {example}" if example else ""),
        )
    folder = Path(name).expanduser()
    return folder if name not in MODELS and (folder / MODULES).is_file() else resolve_model_name(name)

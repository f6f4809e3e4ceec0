"""Locate a trained adapter or model and its base model. Only settings are read, not weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, RerankError, UsageError
from rerank.io.settings_files import read_json_object
from rerank.lm.model_files import locate_model
from rerank.models import MODELS, is_model_downloaded, resolve_model_name
from rerank.models.adapters import adapter_folder, read_model_adapter_settings

#: Kind of a model whose own weights were trained. The kind of an adapter is its type in PEFT.
FULL = "full"
_SETTINGS = "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedModel:
    """A trained adapter or model with its base model.

    Attributes:
        folder: Folder of an adapter saved by PEFT, or of a complete model.
        base: Folder of the untrained model.
        kind: Type of the adapter in PEFT, such as ``LORA``; ``full`` for a complete model.
    """

    folder: Path
    base: Path
    kind: str

    @property
    def config(self) -> Any:
        """Configuration of the adapter, as a PEFT object."""
        return read_inspected_peft_config(self.folder)


def open_inspected_model(name: str, model: str = "") -> InspectedModel:
    """Locate a trained adapter or model and its base model.

    Args:
        name: Folder of an adapter or of a trained model, or hub id of an adapter.
        model: The untrained model, in a form that `rerank.models.resolve_model_name` accepts; if empty, the base model
            that is named in the settings of the trained model.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / _SETTINGS).is_file():
        folder, kind, written = _folder_of_inspected_model(folder), FULL, {}
    else:
        folder = adapter_folder(str(folder) if folder.is_dir() else name)
        written = _read_inspected_peft_settings(folder)
        kind = str(written.get("peft_type", ""))
    if model:
        return InspectedModel(folder=folder, base=resolve_inspected_model_folder(model), kind=kind)
    named, revision = _base_of_inspected_adapter(folder, written)
    if not named:
        raise UsageError(
            f"The settings of {name!r} do not state its base model", remedy="Pass the base model with --model"
        )
    try:
        base = resolve_inspected_model_folder(named, revision)
    except RerankError as error:
        raise MissingResourceError(
            f"The base model {named!r} of {name!r} cannot be found: {error}",
            remedy="Pass the folder of the base model with --model",
        ) from error
    return InspectedModel(folder=folder, base=base, kind=kind)


def resolve_inspected_model_folder(model: str, revision: str = "") -> Path:
    """Return the folder of a model, after downloading it if it is on the hub."""
    location = resolve_model_name(model)
    if isinstance(location, Path):
        return location
    return locate_model(location, revision).folder


def read_inspected_peft_config(folder: Path) -> Any:
    """Read the configuration of an adapter as a PEFT object."""
    try:
        import peft
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"Inspecting an adapter needs peft, which cannot be imported: {error}",
            remedy="Run: pip install 'listrank[hf]'",
        ) from error
    try:
        return peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _SETTINGS} is not a configuration that PEFT {peft.__version__} supports: {error}",
            expected="a file written by save_pretrained of PEFT",
            remedy="Update PEFT, if a newer version wrote the file",
        ) from error


def _folder_of_inspected_model(folder: Path) -> Path:
    """Check that a folder without an adapter contains a complete model, and return the folder of this model."""
    if not (folder / "config.json").is_file():
        raise MissingResourceError(
            f"The folder {str(folder)!r} contains neither an adapter nor a model",
            expected=f"{_SETTINGS} and adapter_model.safetensors, or config.json and the weights of a model",
            remedy="Check the path",
        )
    return resolve_inspected_model_folder(f"{folder}")


def _base_of_inspected_adapter(folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Return the base model and its revision from our settings file or, if the file is missing, from PEFT's settings.

    Both are empty if the settings state no base model; the revision is empty if the settings state no revision.
    """
    ours = read_model_adapter_settings(folder)
    if ours is not None:
        return ours.model.removeprefix("hf:"), ours.revision or ""
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str):
        return "", ""
    here = [card.name for card in MODELS.values() if card.hub_id == named and is_model_downloaded(card.name)]
    return (here[0], "") if here else (named, str(settings.get("revision") or ""))


def _read_inspected_peft_settings(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / _SETTINGS, "configuration of the adapter", expected="a file written by PEFT")

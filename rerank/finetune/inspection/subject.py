"""What is inspected: a trained adapter or model, and the model that it was trained from. Reads settings, no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, RerankError, UsageError
from rerank.lm.loading import adapter_folder
from rerank.models import MODELS, is_pulled, resolve
from rerank.models.trained import read_trained

#: Kind of a model whose own weights were trained; adapters are of the kind that PEFT calls them.
FULL = "full"
_SETTINGS = "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A result of training beside what it started from.

    Attributes:
        folder: An adapter as PEFT saves it, or a whole model.
        base: The folder of the untrained model.
        kind: PEFT's name for the adapter, such as ``LORA``, or ``full``.
    """

    folder: Path
    base: Path
    kind: str

    @property
    def config(self) -> Any:
        """The adapter's settings, as PEFT's own class for its kind.

        Raises:
            MissingPrerequisiteError: PEFT is not installed.
            DataError: It cannot read them.
        """
        return read_settings(self.folder)


def open_subject(name: str, model: str = "") -> Subject:
    """Find what is meant, and what it was trained from.

    Args:
        name: Folder of an adapter or of a trained model, or an adapter's id on the hub.
        model: The untrained model, as `rerank.models.resolve` takes it; empty: the one that the folder names.

    Raises:
        MissingResourceError: One of the two is not there, or lacks something.
        UsageError: Nothing says what was trained.
        DataError: The adapter's settings cannot be read, or the weights are pickled.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / _SETTINGS).is_file():
        folder, kind, written = _model_folder(folder), FULL, {}
    else:
        folder = adapter_folder(str(folder) if folder.is_dir() else name)
        written = _settings(folder)
        kind = str(written.get("peft_type", ""))
    if model:
        return Subject(folder=folder, base=local_folder(model), kind=kind)
    named, revision = _named_base(folder, written)
    if not named:
        raise UsageError(f"{name!r} does not say which model it was trained from", remedy="Name it with --model")
    try:
        base = local_folder(named, revision)
    except RerankError as error:
        raise MissingResourceError(
            f"{name!r} was trained from {named!r}, which cannot be had: {error}",
            remedy="Say where that model is with --model",
        ) from error
    return Subject(folder=folder, base=base, kind=kind)


def local_folder(model: str, revision: str = "") -> Path:
    """The folder of a model; one on the hub is downloaded.

    Raises:
        RerankError: What `rerank.models.resolve` raises.
        MissingResourceError: The hub cannot be reached, or does not have it.
    """
    found = resolve(model)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(found, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise MissingResourceError(
            f"Model {model!r} cannot be had from the hub: {error}", remedy="Check the name and the network"
        ) from error


def read_settings(folder: Path) -> Any:
    """An adapter's settings as PEFT's own class for its kind; raises as `Subject.config`."""
    try:
        import peft
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"An adapter needs peft, and it does not import: {error}", remedy="Run: pip install 'listrank[hf]'"
        ) from error
    try:
        return peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _SETTINGS} describes no adapter that PEFT {peft.__version__} knows: {error}",
            expected="what save_pretrained of PEFT writes",
            remedy="Update PEFT, if a newer one wrote it",
        ) from error


def _model_folder(folder: Path) -> Path:
    """A folder that is no adapter has to be a model."""
    if not (folder / "config.json").is_file():
        raise MissingResourceError(
            f"Folder {str(folder)!r} holds neither an adapter nor a model",
            expected=f"{_SETTINGS} and adapter_model.safetensors, or config.json and a model's weights",
            remedy="Check the path",
        )
    return local_folder(f"{folder}")


def _named_base(folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """What the folder says that it was trained from, and of which revision: our own note first, then PEFT's."""
    ours = read_trained(folder)
    if ours is not None:
        return ours.model.removeprefix("hf:"), ours.revision or ""
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str):
        return "", ""
    here = [card.name for card in MODELS.values() if card.hub_id == named and is_pulled(card.name)]
    return (here[0], "") if here else (named, str(settings.get("revision") or ""))


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _SETTINGS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / _SETTINGS} cannot be read: {error}", expected="what PEFT writes") from error
    if not isinstance(found, dict):
        raise DataError(f"{folder / _SETTINGS} is no object", expected="what PEFT writes")
    return found

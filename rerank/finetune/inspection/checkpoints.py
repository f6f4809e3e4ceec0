"""A trained adapter or model: its folder, its base model, and a reader of its tensors that does not build the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, MissingResourceError, RerankError, UsageError
from rerank.installation import importing
from rerank.io.settings_files import read_json_object
from rerank.lm.model_files import locate_model
from rerank.models import MODELS, is_model_downloaded, resolve_model_name
from rerank.models.adapters import adapter_folder, read_settings

if TYPE_CHECKING:
    from torch import Tensor

#: File of PEFT with the tensors of an adapter.
ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: Kind of a model whose own weights were trained. The kind of an adapter is its type in PEFT.
FULL = "full"
_SETTINGS = "adapter_config.json"
#: Names of the output matrix; many models share it with the embeddings and do not store it.
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
#: Prefixes of tensor names; the files of some models omit them.
_PREFIXES = ("model.", "transformer.", "gpt_neox.")


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedModel:
    """A trained adapter or model with its base model; only settings are read, not weights."""

    folder: Path  #: Folder of an adapter saved by PEFT, or of a complete model.
    base: Path  #: Folder of the untrained model.
    kind: str  #: Type of the adapter in PEFT, such as ``LORA``; ``full`` for a complete model.

    @property
    def config(self) -> Any:
        return read_peft_config(self.folder)

    def tensors(self) -> CheckpointReader:
        return CheckpointReader(self.folder if self.kind == FULL else self.folder / ADAPTER_WEIGHTS)


def open_inspected_model(name: str, model: str = "") -> InspectedModel:
    """Locate a trained adapter or model, and its base model: ``model``, or if empty the one that its settings name."""
    folder, written = Path(name).expanduser(), {}
    if folder.is_dir() and not (folder / _SETTINGS).is_file():
        if not (folder / "config.json").is_file():
            raise MissingResourceError(
                f"The folder {str(folder)!r} contains neither an adapter nor a model",
                expected=f"{_SETTINGS} and adapter_model.safetensors, or config.json and the weights of a model",
                remedy="Check the path",
            )
        folder, kind = _locate(f"{folder}"), FULL
    else:
        folder = adapter_folder(str(folder) if folder.is_dir() else name)
        written = read_json_object(
            folder / _SETTINGS, "configuration of the adapter", expected="a file written by PEFT"
        )
        kind = str(written.get("peft_type", ""))
    if model:
        return InspectedModel(folder=folder, base=_locate(model), kind=kind)
    named, revision = _stated_base(folder, written)
    if not named:
        raise UsageError(
            f"The settings of {name!r} do not state its base model", remedy="Pass the base model with --model"
        )
    try:
        base = _locate(named, revision)
    except RerankError as error:
        raise MissingResourceError(
            f"The base model {named!r} of {name!r} cannot be found: {error}",
            remedy="Pass the folder of the base model with --model",
        ) from error
    return InspectedModel(folder=folder, base=base, kind=kind)


def _locate(model: str, revision: str = "") -> Path:
    location = resolve_model_name(model)
    return location if isinstance(location, Path) else locate_model(location, revision).folder


def _stated_base(folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Return the base model and its revision from our settings or else PEFT's; empty if they are not stated."""
    if (ours := read_settings(folder)) is not None:
        return ours.model.removeprefix("hf:"), ours.revision or ""
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str):
        return "", ""
    here = [card.name for card in MODELS.values() if card.hub_id == named and is_model_downloaded(card.name)]
    return (here[0], "") if here else (named, str(settings.get("revision") or ""))


def read_peft_config(folder: Path) -> Any:
    """Read the configuration of an adapter as a PEFT object."""
    with importing("Inspecting an adapter needs peft", "hf"):
        import peft
    try:
        return peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _SETTINGS} is not a configuration that PEFT {peft.__version__} supports: {error}",
            expected="a file written by save_pretrained of PEFT",
            remedy="Update PEFT, if a newer version wrote the file",
        ) from error


class CheckpointReader:
    """Reader of the tensors of a model; values are returned in float32."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        self._files: dict[str, Any] = {}  # name of a tensor -> file, as a memory map
        for path in _weight_files(folder):
            with _read_errors(path):
                file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> Any:
        with _read_errors(self.folder):
            return self._files[name].get_slice(name)[:0].dtype

    def find(self, name: str) -> str | None:
        """Return the name under which a tensor is stored, or None if it is not stored.

        Both names may differ in a model prefix. An output matrix that is shared with the embeddings has their name.
        """
        stored = [spelling for spelling in _spellings(name) if spelling in self._files]
        if not stored and name.endswith(_HEADS):
            stored = [embedding for embedding in self if embedding.endswith(_EMBEDDINGS)]
        return stored[0] if stored else None

    def has(self, prefix: str) -> bool:
        """Return whether the name of any tensor starts with ``prefix``, with or without a model prefix before it."""
        return any(name.startswith(spelling) for spelling in _spellings(prefix) for name in self._files)

    def read(self, name: str) -> Tensor:
        with _read_errors(self.folder):
            tensor: Tensor = self._files[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise DataError(
                f"{name} in {self.folder} has the data type {tensor.dtype}",
                expected="floating-point weights, since quantised weights cannot be inspected",
                remedy="Pass the folder of the model before quantisation",
            )
        return tensor.float()


def _spellings(name: str) -> list[str]:
    without = [name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)]
    return [name, *(prefix + name for prefix in _PREFIXES), *without]


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: those of its index, since others may be a second copy of the weights."""
    if folder.is_file():
        return [folder]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(read_json_object(index, "index of weights")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{index} is not a valid index of weights: {error!r}", remedy="Download the model again"
        ) from error
    if missing := [name for name in names if not (folder / str(name)).is_file()]:
        raise DataError(
            f"{index} lists the file {missing[0]!r}, which does not exist", remedy="Download the model again"
        )
    return [folder / name for name in names]


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Download or save the model again") from error

"""The model that attention heads, an adapter or a calibration belong to, whatever its exact weights.

The same model comes with slightly different weights: the original on the hub in several commits, in bfloat16, or as a
4-bit copy. What was fitted to one of them still belongs to the others, which a hash of the weights cannot express.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from rerank.errors import DataError
from rerank.io.file_hashes import file_hash
from rerank.io.settings_files import read_json_object, try_read_json_object
from rerank.io.text_files import replace_text_file

#: File in the folder of an adapter with its base model. `rerank.io.model_base` ignores files of this name.
BINDING = "rerank-base.json"

_SHAPES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBase:
    """A published model: its id on the hub, and what all its weights have in common."""

    hub_id: str  #: ``owner/name`` on the hub.
    #: Values of ``config.json`` that determine the shapes of the weights, as far as it states them.
    shapes: Mapping[str, Any]
    tokenizer: str = ""  #: Hex SHA-256 of the vocabulary; empty if the folder has no ``tokenizer.json``.

    def __post_init__(self) -> None:
        if not (isinstance(self.hub_id, str) and isinstance(self.shapes, Mapping) and isinstance(self.tokenizer, str)):
            raise TypeError("hub_id and tokenizer must be texts, and shapes must be an object")

    @classmethod
    def read(cls, folder: Path, hub_id: str) -> Self | None:
        """Return the model in a folder; None if its id on the hub is not known or its config cannot be read."""
        config = try_read_json_object(folder / "config.json")
        if not hub_id or not config:
            return None
        text = config.get("text_config")  # of a model that also reads images
        config = config | text if isinstance(text, dict) else config
        shapes = {key: config[key] for key in _SHAPES if key in config}
        path = folder / "tokenizer.json"
        tokenizer = _vocabulary_hash(path, path.stat().st_mtime_ns) if path.is_file() else ""
        return cls(hub_id=hub_id, shapes=shapes, tokenizer=tokenizer)

    def is_same(self, other: ModelBase | None) -> bool:
        """Return whether two folders contain the same published model, whose weights may differ.

        Programs that convert a model may leave out values that they do not know, so only stated values are compared.
        """
        if other is None or self.hub_id.lower() != other.hub_id.lower():
            return False
        stated = self.shapes.keys() & other.shapes.keys()
        return all(self.shapes[key] == other.shapes[key] for key in stated) and (
            not self.tokenizer or not other.tokenizer or self.tokenizer == other.tokenizer
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBinding:
    """The base model of an adapter, and the weights with which the adapter was measured."""

    base: ModelBase
    weights: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the binding in the folder of an adapter; None if the folder has no such file."""
        path = folder / BINDING
        if not path.is_file():
            return None
        content = read_json_object(path, "base model of an adapter", expected="a file written by `rerank train`")
        try:
            return cls(base=ModelBase(**content["base"]), weights={**content["weights"]})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{str(path)!r} does not name the base model of an adapter: {error!r}",
                expected='{"base": {"hub_id": ..., "shapes": ..., "tokenizer": ...}, "weights": {HASH: DESCRIPTION}}',
            ) from error

    def write(self, folder: Path) -> None:
        """Write the binding into the folder of an adapter."""
        with replace_text_file(folder / BINDING) as file:
            file.write(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


@lru_cache(maxsize=16)
def _vocabulary_hash(path: Path, _mtime: int) -> str:
    """Return the hash of all (token, id) pairs of a ``tokenizer.json``; its other fields depend on the converter."""
    content = try_read_json_object(path)
    try:
        vocabulary: Any = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # a unigram model lists [token, score], whose position is the id
            vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError):  # the loader reports a malformed tokenizer
        return ""
    return hashlib.sha256(json.dumps({**vocabulary, **added}, sort_keys=True).encode()).hexdigest()


MODULES = "modules.json"  #: The file in which sentence-transformers lists the modules of a model.
_ROUTES = "router_config.json"
_BOOKKEEPING = {"transformers_version", "_name_or_path", "_from_model_config", "is_local", "local_files_only"}
_READ = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def hash_file_contents_of_model(folder: Path) -> str:
    """Return the hex SHA-256 of the files of a model, except this package's own (``rerank-*.json``) and sub-folders."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ or path.name.startswith("rerank-"):
            continue
        stat = path.stat()
        total.update(f"{path.name}\0{_hash_content(path, stat.st_mtime_ns, stat.st_size)}\n".encode())
    return total.hexdigest()


def hash_encoder_folder(folder: Path) -> str:
    """Return the hex SHA-256 of a model's folder and the sub-folders of its modules, such as pooling."""
    lines = [f"{name}\0{hash_file_contents_of_model(folder / name)}\n" for name in module_folders(folder)]
    for name in filter(None, module_folders(folder)):
        for path in sorted((folder / name).glob("pytorch_model.bin")):  # not loaded, but part of identities
            stat = path.stat()
            lines.append(f"{name}/{path.name}\0{_hash_content(path, stat.st_mtime_ns, stat.st_size)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def module_folders(folder: Path) -> list[str]:
    """Return ``""`` and the paths of the sub-folders with modules of a sentence-transformers model, sorted."""
    return [name for name in listed_modules(folder) if (folder / name).is_dir()]


def listed_modules(folder: Path) -> list[str]:
    """Return ``""`` and the paths in the folder that a sentence-transformers model lists as modules, sorted."""
    names = {"", *_listed_names(folder / MODULES, lambda modules: [module.get("path", "") for module in modules])}
    # A router has further modules, one per route, each in its own folder.
    for name in sorted(names):
        parts = _listed_names(folder / name / _ROUTES, lambda routes: routes["types"])
        names |= {f"{name}/{part}".strip("/") for part in parts}
    return sorted(name for name in names if not {"..", ""} & set(Path(name).parts) and not Path(name).is_absolute())


def listed_module_classes(folder: Path) -> list[str]:
    """Return the class of each module that a sentence-transformers model lists, including those of its routers."""
    classes = _listed_names(folder / MODULES, lambda modules: [module["type"] for module in modules])
    for name in listed_modules(folder):
        classes += _listed_names(folder / name / _ROUTES, lambda routes: routes["types"].values())
    return classes


def _listed_names(file: Path, names: Callable[[Any], Iterable[Any]]) -> list[str]:
    try:
        found = list(names(json.loads(file.read_text("utf-8")))) if file.is_file() else []
        if not all(isinstance(name, str) for name in found):
            raise TypeError("a path or a type is not a text")
        return found
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{str(file)!r} has a malformed list of modules ({error!r})", expected="a file of sentence-transformers"
        ) from error


@lru_cache(maxsize=256)
def _hash_content(path: Path, _mtime: int, _size: int) -> str:
    """Return the hash of a file without JSON fields that do not affect the model; time and size are cache keys."""
    if path.suffix != ".json":
        return file_hash(path)
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # the loader reports malformed files
        return file_hash(path)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in _BOOKKEEPING}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""The model that attention heads, an adapter or a calibration belong to, whatever its exact weights.

The same model comes with slightly different weights: the original on the hub in several commits, in bfloat16, or as a
4-bit copy. What was fitted to one of them still belongs to the others, which a hash of the weights cannot express.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from rerank.errors import DataError
from rerank.io.settings_files import read_json_object, try_read_json_object
from rerank.io.text_files import replace_text_file

#: File in the folder of an adapter with its base model. `rerank.io.model_hash` ignores files of this name.
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
    """A published model: its id on the hub, and what all its weights have in common.

    Attributes:
        hub_id: ``owner/name`` on the hub.
        shapes: Values of ``config.json`` that determine the shapes of the weights, as far as it states them.
        tokenizer: Hex SHA-256 of the vocabulary; empty if the folder has no ``tokenizer.json``.
    """

    hub_id: str
    shapes: Mapping[str, Any]
    tokenizer: str = ""

    def __post_init__(self) -> None:
        """Check the types of the fields, which may come from a file of someone else."""
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
    """The base model of an adapter, and the weights with which the adapter was measured.

    Attributes:
        base: The base model.
        weights: Hash of each folder, or commit on the hub, with a description for messages.
    """

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

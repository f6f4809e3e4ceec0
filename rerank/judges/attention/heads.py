"""Read lists of attention heads from files or published lists, check their model, and write them."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, UsageError, ensure
from rerank.io.model_base import ModelBase, ModelBinding, hash_file_contents_of_model
from rerank.io.paths import named_path_errors
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import replace_text_file

#: Keys of a backend's identity to which a head list is bound. The data type of the weights is not among them.
_MODEL_KEYS = ("model", "weights", "revision", "adapter")
_PUBLISHED = ("qrhead", "core")
#: Value in a head list that stands for the weights in the folder of the list.
BESIDE = "beside"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadList:
    """Attention heads of one model, best first."""

    heads: tuple[tuple[int, int], ...]  # (layer, head) pairs, both counted from 0
    #: Identity of the model for which the heads were selected. The value `BESIDE` stands for the weights or the adapter
    #: in the folder of the file, since a file in the folder cannot contain the hash of the folder.
    model: Mapping[str, str]
    method: str  # how the heads were selected: ``qrhead``, ``core``, or ``trained`` with an adapter
    #: Data and settings of the selection, and scores of the heads, for information only.
    details: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] = ()  # weight of each head, in the same order; empty if all heads have the same weight
    #: Exponent p; the attention of a passage is multiplied by (its length in tokens)^p. 0 for no factor.
    length_power: float = 0.0
    #: The published model for which the heads were selected. Other weights of this model are accepted. None if it is
    #: not known, in which case the heads fit only the weights in ``model``.
    base: ModelBase | None = None

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the sorted heads, and of their weights and the length power if these are set."""
        content: Any = sorted(self.heads)
        if self.weights:
            content = sorted(zip(self.heads, self.weights, strict=True))
        if self.length_power:
            content = [content, self.length_power]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def write(self, path: str | Path) -> None:
        later = ("weights", "length_power", "base")
        content = {key: value for key, value in asdict(self).items() if value or key not in later}
        with replace_text_file(path) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def fits_exactly(self, identity: Mapping[str, str], folder: Path) -> bool:
        """Return whether the heads were selected with the weights of a model, or with those in ``folder``."""
        actual, expected = model_identity(identity), self.expected_model(folder)
        # The hash of the weights identifies a model; its folder may have been moved or renamed.
        keys = [key for key in _MODEL_KEYS if key != "model" or not expected.get("weights")]
        return all(actual.get(key) == expected.get(key) for key in keys)

    def fits_other_weights(self, identity: Mapping[str, str], base: ModelBase | None, folder: Path) -> bool:
        """Return whether the heads were selected with other weights of the same published model."""
        expected = self.expected_model(folder)
        if base is None or identity.get("adapter") != expected.get("adapter"):
            return False
        binding = ModelBinding.read(folder) if self.model.get("adapter") == BESIDE else None
        known = self.base or (binding and binding.base)
        # The name of a folder says nothing, but in a list without a hash the name is an id on the hub.
        is_named = "weights" not in expected and expected.get("model", "").lower() == base.hub_id.lower()
        return known.is_same(base) if known else is_named

    def expected_model(self, folder: Path) -> dict[str, str]:
        """Return the identity of the model for which the heads were selected, with the hash of ``folder`` if needed."""
        return {
            key: hash_file_contents_of_model(folder) if value == BESIDE else value
            for key, value in model_identity(self.model).items()
        }


def model_identity(identity: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a backend's identity that a head list stores to identify its model."""
    return {key: identity[key] for key in _MODEL_KEYS if identity.get(key)}


@named_path_errors()
def open_attention_heads(name: str, identity: Mapping[str, str], base: ModelBase | None = None) -> HeadList:
    """Open a head list and check that its heads were selected for the model in use, maybe with other weights.

    ``name`` is the path of a file, or ``qrhead`` or ``core`` for the published list of this model. ``base`` is the
    published model whose weights the backend runs; None if it is not known.
    """
    if name in _PUBLISHED:
        return _published_heads(name, identity)
    path = Path(name)
    head_list = read_attention_heads(path)
    folder = path.parent
    if not head_list.fits_exactly(identity, folder) and not head_list.fits_other_weights(identity, base, folder):
        raise UsageError(
            f"The heads in {name!r} were selected for {_describe(head_list.expected_model(folder))}, but here it is "
            f"{_describe(model_identity(identity))}",
            expected="the same model; a folder of unknown origin has to have exactly these weights",
            remedy="Select heads for this model: rerank heads select --model ... --output heads.json",
        )
    return head_list


def read_attention_heads(path: Path) -> HeadList:
    """Read a head list from a file, without checking its model."""
    content = read_json_object(
        path, "head list", expected=f"a file written by `rerank heads select`, or one of: {', '.join(_PUBLISHED)}"
    )
    try:
        heads = tuple((layer, head) for layer, head in content["heads"])
        if not all(type(index) is int and 0 <= index < 1 << 31 for pair in heads for index in pair):
            raise ValueError("heads are not pairs of a layer and a head")
        weights, length_power = tuple(map(float, content.get("weights", ()))), float(content.get("length_power", 0.0))
        if not all(map(isfinite, (*weights, length_power))):
            raise ValueError("weights and length_power are not finite")
        head_list = HeadList(
            heads=heads,
            model=content["model"],
            method=content["method"],
            details=content.get("details", {}),
            weights=weights,
            length_power=length_power,
            base=ModelBase(**content["base"]) if "base" in content else None,
        )
        model_identity(head_list.model)
        if unknown := content.keys() - {part.name for part in fields(HeadList)}:  # a misspelt key would be a default
            raise ValueError(f"{min(unknown)} is not a known key")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{str(path)!r} is not a head list: {error!r}",
            expected='{"model": {...}, "method": "...", "heads": [[layer, head], ...]}',
        ) from error
    ensure(heads, f"The head list {str(path)!r} is empty", expected="at least one head", error=DataError)
    if weights and len(weights) != len(heads):
        raise DataError(
            f"The head list {str(path)!r} has {len(weights)} weights for {len(heads)} heads instead of one per head"
        )
    return head_list


def _published_heads(method: str, identity: Mapping[str, str]) -> HeadList:
    text = (files("rerank.judges.attention") / "published_heads.toml").read_text(encoding="utf-8")
    table: dict[str, str] = tomllib.loads(text)[method]
    model = identity.get("model", "")
    name = model.rpartition("/")[2].lower()
    if identity.get("adapter") or name not in table:
        raise MissingResourceError(
            f"No {method} heads were published for {model!r}{' with an adapter' if identity.get('adapter') else ''}",
            expected=f"one of: {', '.join(table)}",
            remedy=f"Select them with a few judged queries: rerank heads select --method {method} --model {model} "
            f"--collection pydoc --output heads.json; then run --method {method},heads=heads.json",
        )
    heads = tuple((int(layer), int(head)) for layer, head in (pair.split("-") for pair in table[name].split()))
    return HeadList(heads=heads, model={"model": model}, method=method)


def _describe(identity: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value[:12] if key == 'weights' else value}" for key, value in identity.items())

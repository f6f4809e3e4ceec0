"""Lists of attention heads: read from files and from the published ones, checked against the model, and written.

Knows names and numbers, not how heads are chosen.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.model_hash import folder_hash
from rerank.io.text_files import replace_text

#: What of a backend's identity tells whose heads a list is about; the number type does not matter.
_OF_THE_MODEL = ("model", "weights", "revision", "adapter")
_PUBLISHED = ("qrhead", "core")
#: What a list says of the weights whose folder it lies in.
BESIDE = "beside"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadList:
    """Heads of one model, the best first.

    Attributes:
        heads: (layer, head) pairs, from 0.
        weights: How much each counts, in their order; empty: all the same.
        length_power: What power of a passage's length its attention is multiplied by.
        model: Identity of the model they were chosen for. `BESIDE` for its weights or its adapter stands for those in
            whose folder the file lies: their hash cannot stand in it.
        method: How: ``qrhead``, ``core``, or ``trained`` with an adapter.
        details: What they were chosen on and with, and their scores; for people.
    """

    heads: tuple[tuple[int, int], ...]
    model: Mapping[str, str]
    method: str
    details: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    length_power: float = 0.0

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the heads, in whatever order, with weights and power if they have some."""
        content: Any = sorted(self.heads)
        if self.weights:
            content = sorted(zip(self.heads, self.weights, strict=True))
        if self.length_power:
            content = [content, self.length_power]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def write(self, path: str | Path) -> None:
        """Write a JSON file that `open_heads` reads."""
        later = ("weights", "length_power")
        content = {key: value for key, value in asdict(self).items() if value or key not in later}
        with replace_text(path) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def of_model(identity: Mapping[str, str]) -> dict[str, str]:
    """The part of a backend's identity that a head list is bound to."""
    return {key: identity[key] for key in _OF_THE_MODEL if identity.get(key)}


def open_heads(name: str, identity: Mapping[str, str]) -> HeadList:
    """The list that a judge is to use.

    Args:
        name: Path of a file, or ``qrhead`` or ``core`` for the published list of this model.
        identity: That of the backend at hand.

    Raises:
        MissingResourceError: There is no such file, or nothing was published for this model.
        DataError: The file holds something else.
        UsageError: The list was made for another model.
    """
    if name in _PUBLISHED:
        return _published(name, identity)
    path = Path(name)
    found = read_heads(path)
    mine, theirs = of_model(identity), of_model(found.model)
    theirs = {key: folder_hash(path.parent) if value == BESIDE else value for key, value in theirs.items()}
    # A folder's name is only where it lies; its hash says what is in it.
    keys = [key for key in _OF_THE_MODEL if key != "model" or not theirs.get("weights")]
    if any(mine.get(key) != theirs.get(key) for key in keys):
        raise UsageError(
            f"The heads in {name!r} were chosen for {_shown(theirs)}, and the model is {_shown(mine)}",
            expected="heads of the same model",
            remedy="Choose its own: rerank heads select --model ... --output heads.json",
        )
    return found


def read_heads(path: Path) -> HeadList:
    """The list in a file, whatever model it is for.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingResourceError(
            f"No head list at {str(path)!r}",
            expected=f"a file of `rerank heads select`, or one of: {', '.join(_PUBLISHED)}",
        ) from error
    except ValueError as error:
        raise DataError(f"The head list {str(path)!r} is no JSON: {error}") from error
    try:
        heads = tuple((int(layer), int(head)) for layer, head in content["heads"])
        weights = tuple(map(float, content.get("weights", ())))
        found = HeadList(
            heads=heads,
            model=content["model"],
            method=content["method"],
            details=content.get("details", {}),
            weights=weights,
            length_power=float(content.get("length_power", 0.0)),
        )
        of_model(found.model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"The head list {str(path)!r} does not have the shape of one: {error!r}",
            expected='{"model": {...}, "method": "...", "heads": [[layer, head], ...]}',
        ) from error
    if not heads:
        raise DataError(f"The head list {str(path)!r} is empty", expected="at least one head")
    if weights and len(weights) != len(heads):
        raise DataError(f"The head list {str(path)!r} has {len(weights)} weights for {len(heads)} heads")
    return found


def _published(method: str, identity: Mapping[str, str]) -> HeadList:
    text = (files("rerank.judges.attention") / "published_heads.toml").read_text(encoding="utf-8")
    table: dict[str, str] = tomllib.loads(text)[method]
    model = identity.get("model", "")
    name = model.rpartition("/")[2].lower()
    if identity.get("adapter") or name not in table:
        raise MissingResourceError(
            f"No {method} heads were published for {model!r}{' with an adapter' if identity.get('adapter') else ''}",
            expected=f"one of: {', '.join(table)}",
            remedy=f"Choose them from a few judged queries: rerank heads select --method {method} --model {model} "
            f"--collection pydoc --output heads.json; then run --method {method},heads=heads.json",
        )
    pairs = (pair.split("-") for pair in table[name].split())
    heads = tuple((int(layer), int(head)) for layer, head in pairs)
    return HeadList(heads=heads, model={"model": model}, method=method)


def _shown(identity: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value[:12] if key == 'weights' else value}" for key, value in identity.items())

"""What the folder of a trained adapter, or model, says about its use: its base, its method, its prompt, its limits.

An adapter is trained for one way of asking. The folder keeps it beside the weights, so that ``--adapter FOLDER`` alone
ranks as it was trained to. Knows files and names, neither weights nor how they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rerank.errors import DataError
from rerank.io.text_files import replace_text
from rerank.selector import Selector

#: The file in an adapter's folder that says all this.
SETTINGS = "rerank.json"
#: The prompt beside it, whatever it was called where it came from.
PROMPT = "prompt.yaml"
#: The heads beside it, where the method reads attention.
HEADS = "heads.json"

_FORMAT = 1
#: Where the adapters lie that come with the package, a folder each.
_SHIPPED = Path(__file__).parent.parent / "shipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How an adapter is used.

    Attributes:
        model: Its base model, as ``--model`` takes it.
        method: As ``--method`` takes it; files that its options name lie in the folder.
        revision: The base's commit on the hub, if it came from there.
        min_passage_tokens: As in a run specification.
        max_passage_tokens: Likewise.
        context_size: Likewise.
    """

    model: str
    method: str
    revision: str | None = None
    min_passage_tokens: int = 32
    max_passage_tokens: int | None = None
    context_size: int | None = None

    def write(self, folder: Path) -> None:
        """Write it into the adapter's folder; the prompt is written beside it by whoever has it."""
        with replace_text(folder / SETTINGS) as file:
            file.write(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")


def shipped() -> dict[str, Path]:
    """The adapters that come with the package: name -> folder."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob(f"*/{SETTINGS}"))}


def read_trained(folder: Path) -> Trained | None:
    """What the folder says; None where it says nothing, as adapters of others do.

    Raises:
        DataError: It says something that is not understood.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    known = {field.name for field in fields(Trained)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return Trained(**{key: value for key, value in content.items() if key in known})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(path)!r} cannot be read: {error}",
            expected=f"what `rerank train` writes, format {_FORMAT}",
            remedy="Take the listrank version that trained the adapter, or name --method and --prompt yourself",
        ) from error


def as_trained(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run specification that an adapter decides where the user does not.

    Args:
        folder: The adapter's, or the whole model's where all its weights were trained.
        given: What the user said, by the names of a run specification.

    Returns:
        Values for what was not given. Who names another method gets the base model only: prompt and limits belong to
        the method that was trained.
    """
    trained = read_trained(folder)
    if trained is None:
        return {}
    values: dict[str, Any] = {}
    if "model" not in given:
        values = {"model": trained.model, "revision": trained.revision}
    if "method" not in given:
        values |= {
            "method": _located(trained.method, folder),
            "min_passage_tokens": trained.min_passage_tokens,
            "max_passage_tokens": trained.max_passage_tokens,
            "context_size": trained.context_size,
        }
        if (folder / PROMPT).is_file():
            values["prompt"] = str(folder / PROMPT)
    return {key: value for key, value in values.items() if key not in given and value is not None}


def _located(method: str, folder: Path) -> str:
    """The method, with the files that its options name where they lie."""
    name, _, rest = method.partition(",")
    options = Selector.parse(f"m,{rest}").options if rest else {}
    placed = {
        key: str(folder / value) if value.endswith(".json") and (folder / value).is_file() else value
        for key, value in options.items()
    }
    return ",".join([name, *(f"{key}={value}" for key, value in placed.items())])

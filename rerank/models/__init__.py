"""Functions that resolve the names of models, and open models as backends.

Importing this package does not download or load anything. `rerank.models.presets` lists the models that can be
referenced by name, and `rerank.models.download` downloads them.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rerank.backends import BACKENDS
from rerank.errors import DataError, MissingResourceError, RerankError, UnknownNameError, UsageError, ensure
from rerank.io.model_base import MODULES, module_folders
from rerank.io.paths import is_path_like, named_path_errors
from rerank.io.settings_files import try_read_json_object
from rerank.lm.loading import check_weight_files
from rerank.lm.model_files import ModelFiles, cached_snapshot, locate_model, remedy_for_class
from rerank.models.adapters import adapter_folder, shipped_adapters
from rerank.models.lazy_backend import AsyncLazyBackend, LazyBackend
from rerank.models.presets import (
    MARKER,
    MODELS,
    ModelPreset,
    RerankerPreset,
    is_model_downloaded,
    list_models,
    list_rerankers,
    model_folder,
    read_model_source,
    recognise_reranker,
    reranker_presets,
)
from rerank.selector import Selector, build_from_selector
from rerank.tasks import Backend, BackendOptions, task_backend_is_selectable
from rerank.tasks.backends import traits
from rerank.types import Qrels

__all__ = [
    "MARKER",
    "MODELS",
    "BackendOptions",
    "ModelPreset",
    "backend_class_of_model",
    "default_method_of_model",
    "is_model_downloaded",
    "list_models",
    "list_rerankers",
    "model_folder",
    "model_settings_folder",
    "open_model_backend",
    "prompt_for_model",
    "recipe_of_model",
    "reranker_preset_of_model",
    "resolve_model_name",
    "split_model_selector",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FAKE_BACKENDS = ("fake", "fake-server")
_FAKES = ("fake:perfect", "fake:reversed", "fake:stutter", "fake:talk", "fake:fail")


def prompt_for_model(model: str, prompt: str = "auto") -> str:
    """Return the prompt to use; ``auto`` selects the prompt of the model's preset, or ``listwise`` without a preset."""
    if prompt != "auto":
        return prompt
    _, name = split_model_selector(model)
    return next((preset.prompt for preset in MODELS.values() if name in (preset.name, preset.hub_id)), "listwise")


def reranker_preset_of_model(selector: str, revision: str = "") -> RerankerPreset | None:
    """Return the preset of a published reranker, whatever backend runs it; None for other models."""
    _, name = split_model_selector(selector)
    if name in MODELS:
        return None
    files = _describing_files(selector, revision)
    return recognise_reranker(name if files is None else files.folder)


def recipe_of_model(selector: str, folder: Path | None, revision: str = "") -> Mapping[str, Any]:
    """Return the settings, including the method, that ``auto`` selects for a model; empty if none are known.

    The selector is that of the model or of its adapter, and empty if the model is not known; the folder is the one
    from which it is loaded, and None if it is on the hub.
    """
    recipe: Mapping[str, Any] = next((own.recipe for own in MODELS.values() if model_folder(own.name) == folder), {})
    if recipe or not selector:
        _check_multi_vector(selector, "it is a language model")
        return recipe
    is_adapter = bool(folder and (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file())
    files = None if is_adapter else _describing_files(selector, revision)
    preset = recognise_reranker(split_model_selector(selector)[1] if files is None else files.folder)
    if preset is None and files is not None:
        recipe = next((model.recipe for model in MODELS.values() if model.hub_id == files.hub_id), {})
        return recipe or _recipe_of_class(selector, files)
    if preset is None:
        return {}
    if not (preset.served or _loads_weights(selector)):
        return {}
    if not preset.recipe:
        raise UsageError(
            f"Model {selector!r} is a reranker of the family {preset.family!r}: {preset.note}",
            expected="a reranker that this version can run; `rerank models --all` lists them with their methods",
            remedy="Use another model, serve this model with vLLM, or pass --method to use it in another way",
        )
    _check_multi_vector(selector, f"it is a reranker that scores by {preset.kind}")
    return preset.recipe


def _check_multi_vector(selector: str, known: str) -> None:
    """Check that a model of which another kind is ``known`` was not asked for as a multi-vector model."""
    backend, name = split_model_selector(selector)
    ensure(
        selector == name or backend.replace("-", "_") != "late_interaction",
        f"Model {name!r} is not a multi-vector model: {known}",
        expected="a model of sentence-transformers' class MultiVectorEncoder, such as a ColBERT model",
        remedy=f"To use it as what it is, write --model {name}",
    )


def _loads_weights(selector: str) -> bool:
    return hasattr(BACKENDS.get(split_model_selector(selector)[0]), "load")


def _describing_files(selector: str, revision: str) -> ModelFiles | None:
    """Return the files that describe a model: its folder, or those of its commit on the hub, without weights.

    There are none for the name of a preset, for a model that loads no weights, and if the hub cannot be read, an
    error that loading the model reports.
    """
    _, name = split_model_selector(selector)
    path = Path(name).expanduser()
    if not name or not _loads_weights(selector) or name in MODELS or name in shipped_adapters():
        return None
    if path.is_dir():
        return cached_snapshot(path)
    if not _HUB_ID.fullmatch(name) or any(name == preset.hub_id for preset in reranker_presets().values()):
        return None
    try:
        return locate_model(name, revision, weights=False)
    except RerankError:
        return None


#: First stage that uses a model of a class of sentence-transformers, by the name of the class.
_FIRST_STAGES = {"SentenceTransformer": "dense", "SparseEncoder": "sparse"}


def _recipe_of_class(selector: str, files: ModelFiles) -> Mapping[str, Any]:
    """Return the recipe for a model that no preset knows, according to the class that its files state."""
    backend, name = split_model_selector(selector)
    if files.is_library_cross_encoder or any(kind.endswith("ForSequenceClassification") for kind in files.classes):
        runs_it = ("cross_encoder",) if files.is_library_cross_encoder else ("cross_encoder", "vllm")
        if selector != name and backend.replace("-", "_") not in runs_it:
            raise UsageError(
                f"Model {name!r} is a cross-encoder ({' or '.join(files.classes)}), which {backend} does not run",
                expected="a language model after this prefix",
                remedy=f"Use --model {name}",
            )
        return {"method": "cross-encoder"}
    if files.is_multi_vector:
        return {"method": "late-interaction"}
    _check_multi_vector(selector, f"its files describe a {' or '.join(files.classes) or 'model'}")
    if (files.folder / MODULES).is_file():
        saved = try_read_json_object(files.folder / "config_sentence_transformers.json")
        stage = _FIRST_STAGES.get(str(saved.get("model_type", "SentenceTransformer")), "dense")
        raise UsageError(
            f"Model {selector!r} is an embedding model of sentence-transformers",
            expected="a language model or a cross-encoder",
            remedy=f"Use it for the first stage: --first-stage {stage}:{name}",
        )
    if files.config.get("is_encoder_decoder"):
        raise UsageError(
            f"Model {selector!r} is an encoder-decoder model ({' or '.join(files.classes)}) that no preset knows",
            expected="a language model, a cross-encoder, or a reranker that `rerank models --all` lists",
            remedy=remedy_for_class(files.classes),
        )
    files.check_generates()
    return {}


@named_path_errors()
def resolve_model_name(name: str) -> Path | str:
    """Return the folder of a model, or its id on the hub.

    The name is that of a preset, a folder, or ``owner/model`` on the hub. The name of a reranker's preset stands
    for its id on the hub, unless a folder has this name.

    Raises `MissingResourceError` if the preset was not downloaded, or the folder does not exist or lacks files;
    `DataError` if it is a file, or the weights have an unsupported format; `UsageError` for an adapter or a
    backend; and `UnknownNameError` otherwise.
    """
    ensure(name, "The name of the model is missing", expected="a name, a folder or OWNER/NAME after the colon")
    path = _local_path(name)
    if name in MODELS:
        if not is_model_downloaded(name):
            raise MissingResourceError(
                f"Model {name!r} has not been downloaded yet",
                expected=f"its files in {path}",
                remedy=f"Run: rerank models pull {name}",
            )
        return path
    if name in shipped_adapters():
        raise UsageError(
            f"Model {name!r} is an adapter",
            expected="a model",
            remedy=f"Use --adapter {name}; the folder of the adapter names its base model",
        )
    if path.is_dir():
        return _checked_folder(path)
    preset = next((preset for preset in reranker_presets().values() if name in (preset.name, preset.hub_id)), None)
    if preset:
        return preset.checked_hub_id()
    if path.is_file():
        raise DataError(f"Model {name!r} is a file", expected="a folder with config.json and safetensors weights")
    if is_path_like(name) or (name.count("/") > 1 and ":" not in name):
        raise MissingResourceError(f"Model folder {name!r} does not exist", remedy="Check the path")
    if _HUB_ID.fullmatch(name):
        return name
    _check_not_a_backend(name)
    prefix, colon, rest = name.partition(":")
    if colon:  # a mistyped backend, or a name with a tag as Ollama has them
        near = difflib.get_close_matches(prefix, BACKENDS.names(), n=1, cutoff=0.75)
        similar = [f"{backend}:{rest}" for backend in near]
        tagged = rest if prefix == "ollama" else name.removeprefix("ollama/")
        elsewhere = f"For a model of Ollama, write --model openai:{tagged} --base-url http://localhost:11434/v1"
    else:  # there are many rerankers, so only those with similar names are suggested
        similar = difflib.get_close_matches(name, reranker_presets(), cutoff=0.5)
        elsewhere = f"Write openai:{name} for a model on a server, or OWNER/NAME for a hub model; check the path if it "
        elsewhere += "is a folder"
    raise UnknownNameError("model", name, [*MODELS, *_FAKES, *similar], otherwise=elsewhere)


def source_of_model(files: ModelFiles) -> dict[str, Any]:
    """Return where the files of a model are from: ``source`` (hub, package or folder), ``id``, ``revision``, ``base``.

    ``base`` is the published model whose weights these are, if it is known.
    """
    downloaded = read_model_source(files.folder) or {"source": "folder"}
    if files.commit:
        downloaded = {"source": "hub", "id": files.hub_id, "revision": files.commit}
    if files.folder in shipped_adapters().values():
        downloaded = {"source": "listrank", "id": files.folder.name}
    source: dict[str, Any] = {key: downloaded[key] for key in ("source", "id", "revision") if key in downloaded}
    return source | ({"base": dataclasses.asdict(files.base)} if files.base else {})


def check_model_files(selector: str, options: BackendOptions, kind: str = "") -> None:
    """Check the files of a local model and of its adapter, without loading them; other models are not checked."""
    backend_type = backend_class_of_model(selector, kind)
    if hasattr(backend_type, "load"):
        name = resolve_model_name(split_model_selector(selector, kind)[1])
        if options.adapter:
            options = options.model_copy(update={"adapter": str(adapter_folder(options.adapter))})
        if hasattr(backend_type, "describe"):
            backend_type.describe(name, options)
        if isinstance(name, Path):
            for part in module_folders(name):
                check_weight_files(name / part)
        if options.adapter:
            check_weight_files(Path(options.adapter))


def base_model_of_adapter(adapter: str) -> dict[str, str]:
    """Return the base model that peft has recorded in an adapter's folder, and its revision if there is one.

    Raises `UsageError` if the folder names none that can be found.
    """
    config = try_read_json_object(adapter_folder(adapter) / "adapter_config.json")
    base, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    ensure(
        base and (_HUB_ID.fullmatch(base) or Path(base).is_dir()),
        f"The adapter {adapter} {f'was trained on {base!r}, which is not here' if base else 'names no base model'}",
        expected="its base model",
        remedy=f"Write --model BASE_MODEL --adapter {adapter}",
    )
    preset = next((preset.name for preset in MODELS.values() if preset.hub_id == base), "")
    if preset and is_model_downloaded(preset):
        return {"model": preset}
    return {"model": base} | ({"revision": str(revision)} if revision else {})


def model_settings_folder(selector: str) -> Path | None:
    """Return the folder, which may not exist, of a trained or merged model; None if the backend loads no weights.

    This is the folder that `open_model_backend` loads for this selector: a preset takes precedence over a folder of
    the same name, and ``hf:FOLDER`` stands for ``FOLDER``.
    """
    name, argument = split_model_selector(selector)
    return _local_path(argument) if hasattr(BACKENDS.get(name), "load") else None


def default_method_of_model(selector: str) -> str:
    """Return the default method of a model's backend; empty for backends without one, which support many tasks."""
    return traits(BACKENDS.get(split_model_selector(selector)[0])).default_method


def _local_path(name: str) -> Path:
    """Return the local path of a model (the folder of a preset, or the name as a path), which may not exist."""
    return model_folder(name) if name in MODELS else Path(name).expanduser()


def _check_not_a_backend(name: str) -> None:
    """Check that a model's name is not only the name of a backend, such as ``openai`` without ``:NAME``."""
    # For "fake", the error about unknown models is more helpful, because it lists the kinds of fakes.
    backend, _, options = name.partition(",")
    if backend != "fake" and backend in BACKENDS and name not in MODELS and not Path(name).is_dir():
        raise UsageError(
            f"{backend!r} is a backend, not a model",
            expected=f"the backend and its argument, as in {backend}:NAME",
            remedy=f"Write --model {backend}:NAME{options and ',' + options}, or {backend}:{options and ',' + options} "
            "if the backend takes no argument",
        )


def _checked_folder(folder: Path) -> Path:
    """Return the folder after checking that it contains a model, before torch is imported."""
    if not (folder / "config.json").is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        preset = reranker_presets().get(str(folder))  # such as an output folder with the name of the model
        raise MissingResourceError(
            f"Model folder {str(folder)!r} {'contains only an adapter' if is_adapter else 'has no config.json'}",
            expected="config.json, safetensors weights and a tokenizer in the folder",
            remedy=f"To use the reranker of this name, write --model {preset.hub_id}, or rename the folder"
            if preset
            else "Use --model for the base model and --adapter for the adapter"
            if is_adapter
            else "Check the path, or name another folder",
        )
    ModelFiles(folder=folder).check_formats()
    return folder


@named_path_errors()
def open_model_backend(
    selector: str,
    options: BackendOptions | None = None,
    *,
    qrels: Qrels | None = None,
    kind: str = "",
    lazy: bool = False,
) -> Backend:
    """Open the model that ``--model`` names.

    The selector is a model's name, folder or hub id; a fake model such as ``fake:perfect`` or
    ``fake:stutter,p=0.3``; or ``NAME:ARGUMENT`` for a backend from another distribution. ``kind`` is the backend if
    the selector names none; transformers if empty. Fakes use only the options batch size and concurrency, and
    ``fake:perfect`` the qrels.

    If ``lazy``, and the backend can be described without its weights, these are loaded at the first call
    (`LazyBackend`), which then raises their errors.

    Raises `UsageError` if the selector cannot be opened as a model, or an option does not apply to its backend; and
    the errors of `resolve_model_name` and of the backend.
    """
    options = options or BackendOptions()
    if options.adapter:
        options = options.model_copy(update={"adapter": str(adapter_folder(options.adapter))})
    backend_type = backend_class_of_model(selector, kind)
    _, argument = split_model_selector(selector, kind)
    ensure(
        not options.base_url or hasattr(backend_type, "connect"),
        f"--base-url cannot be used with --model {selector}, which uses no server",
        expected="--model openai:NAME, api:API/NAME or decisions:NAME, with the model's name on that server",
        remedy="Change --model, or omit --base-url",
    )
    ensure(
        options.attention == "auto" or traits(backend_type).takes_attention,
        f"--attention {options.attention} cannot be used with --model {selector}",
        expected="a local language model, vision-language model or cross-encoder that runs through transformers",
        remedy="Omit the option",
    )
    ensure(
        not options.merge_adapter or traits(backend_type).merges_adapters,
        f"--merge-adapter cannot be used with --model {selector}",
        expected="a local language model that runs through transformers",
        remedy="Omit the option; rerank merge writes a merged model for other backends",
    )
    for flag in ("tensor_parallel_size", "pipeline_parallel_size", "vllm_options"):
        ensure(
            not getattr(options, flag) or traits(backend_type).takes_parallel_sizes,
            f"--{flag.replace('_', '-')} {getattr(options, flag)} cannot be used with --model {selector}",
            expected="--model vllm:NAME",
            remedy="Omit the option"
            + (
                ""
                if flag == "vllm_options"
                else ". Other local models support --device-map; servers have their own options"
            ),
        )
    if hasattr(backend_type, "load"):  # loads weights
        if argument in MODELS and MODELS[argument].kind != "language":
            raise UsageError(
                f"--model {selector} is an {MODELS[argument].kind} model",
                expected="a language model or a cross-encoder",
                remedy=f"Use it for the first stage: --first-stage dense:{argument}",
            )
        name, description = resolve_model_name(argument), None
        # Paths are absolute, because the working directory may change before the weights are loaded.
        name = name.absolute() if isinstance(name, Path) else name
        if lazy and hasattr(backend_type, "describe"):
            adapter = str(Path(options.adapter).absolute()) if options.adapter else ""
            description = backend_type.describe(name, options.model_copy(update={"adapter": adapter}))
        lazy_type = AsyncLazyBackend if hasattr(backend_type, "agenerate") else LazyBackend
        loaded: Any = backend_type.load(name, options) if description is None else lazy_type(backend_type, description)
        if traits(loaded).files:
            loaded.files = with_hub_id_of_preset(loaded.files)
        return cast(Backend, loaded)
    if hasattr(backend_type, "connect"):  # connects to a server, which has its own names for models
        if isinstance(options.base_url, tuple):
            from rerank.backends.base.server import ServerBackend  # commands without a server start faster

            ensure(
                issubclass(backend_type, ServerBackend),
                f"--base-url contains {len(options.base_url)} addresses",
                expected="one address, for this backend",
            )
        return cast(Backend, backend_type.connect(argument, options))
    backend: Any = build_from_selector(BACKENDS, selector)
    if Selector.parse(selector).name.replace("_", "-") in _FAKE_BACKENDS:
        values = {"batch_size": options.batch_size, "qrels": qrels}
        if hasattr(backend, "concurrency"):
            values["concurrency"] = options.concurrency
        backend = dataclasses.replace(backend, **{key: value for key, value in values.items() if value is not None})
    return cast(Backend, backend)


def with_hub_id_of_preset(files: ModelFiles) -> ModelFiles:
    """Return the files with their id on the hub if they are in the folder of a preset, whatever their source."""
    preset = next((preset for preset in MODELS.values() if model_folder(preset.name) == files.folder), None)
    return dataclasses.replace(files, hub_id=preset.hub_id) if preset else files


def backend_class_of_model(selector: str, kind: str = "") -> Any:
    """Return the class of the backend that `open_model_backend` opens for a selector."""
    _check_not_a_backend(selector)
    backend_type = BACKENDS.get(split_model_selector(selector, kind)[0])
    if not task_backend_is_selectable(backend_type):
        raise UsageError(
            f"{selector!r} refers to recorded replies, not to a model",
            remedy="To replay a run folder, use: rerank replay FOLDER",
        )
    return backend_type


def split_model_selector(selector: str, kind: str = "") -> tuple[str, str]:
    """Split a model's selector into the name of its backend (``kind`` or ``hf`` if none) and the backend's argument.

    >>> split_model_selector("openai:gpt-4o"), split_model_selector("smollm2-135m")
    (('openai', 'gpt-4o'), ('hf', 'smollm2-135m'))
    """
    name, colon, argument = selector.partition(":")
    if colon and name.replace("-", "_") in BACKENDS.names():
        return name, argument
    return kind or "hf", selector

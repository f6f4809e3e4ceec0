"""Optional attributes of backends, which the protocol `Backend` leaves open: their defaults and their delegation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rerank.io.model_base import ModelBase
from rerank.prompts.base import TokenCounter
from rerank.tasks.kinds import GenerationTask
from rerank.tasks.requests import Backend


class BaseBackend:
    """A base class with the default of every optional attribute of a backend.

    Plug-ins need not have this base class: `traits` adds the defaults to any other backend. Attributes without a
    property are also read from the class, before a model is loaded.
    """

    #: Classes of the tasks that the backend can perform.
    tasks: frozenset[type[Any]] = frozenset({GenerationTask})
    #: Whether prompts may show pictures.
    sees_pictures: bool = False
    #: Whether prompts may contain their own marks of turns. Chat servers and vision-language models add others.
    takes_verbatim: bool = True
    #: Whether users can select the backend with the model's name.
    selectable: bool = True
    #: Whether the options ``tensor_parallel_size`` and ``pipeline_parallel_size`` have an effect.
    takes_parallel_sizes: bool = False
    #: Whether the backend caches the prefixes of prompts, so that prompts with the same beginning should be neighbours.
    caches_prefixes: bool = False
    #: Whether one batch with the requests of several callers is faster than one batch per caller.
    shares_batches: bool = False
    #: Maximum number of characters of the prompts in a batch; None for no maximum.
    batch_characters: int | None = None
    #: The method that ``auto`` stands for; empty for the general default.
    default_method: str = ""
    #: Folder of the adapter or the trained model, with the settings that `Reranker.from_backend` uses; None if unknown.
    settings_folder: Path | None = None
    #: The published model whose weights the backend runs; None if it is not known.
    base: ModelBase | None = None
    #: The files of a local model (`rerank.lm.model_files.ModelFiles`); None if there are none or they are not known.
    files: Any = None

    def warm_up(self) -> object:
        """Load the model now if it would otherwise be loaded at the first call."""

    def close(self) -> None:
        """Close connections and files; a later request opens them again."""

    def set_batching(self, batch_size: int, *, reuse: bool) -> None:
        """Use the batching of a recorded run, so that its results are bit-identical after it is resumed."""

    def report_tokens_to(self, on_tokens: Callable[[float], None] | None) -> None:
        """Call a function with the number of tokens processed while a batch is in progress; None ends the reports."""


_DEFAULTS = BaseBackend()


class _PluginTraits:
    """The attributes of a plug-in without `BaseBackend`, which has the default of each attribute that it lacks."""

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._plugin, name)
        except AttributeError:
            return getattr(_DEFAULTS, name)


def traits(backend: Any) -> BaseBackend:
    """Return a backend or its class, with the defaults of the optional attributes that a plug-in lacks."""
    is_complete = issubclass(backend, BaseBackend) if isinstance(backend, type) else isinstance(backend, BaseBackend)
    return cast(BaseBackend, backend if is_complete else _PluginTraits(backend))


def _of_wrapped(name: str) -> Any:
    """Return a property with the value that the wrapped backend has."""
    return property(lambda wrapper: getattr(traits(wrapper.backend), name), doc=f"``{name}`` of the wrapped backend.")


class BackendWrapper(BaseBackend):
    """A backend that wraps another one: all its attributes and methods are those of ``backend`` unless overridden."""

    backend: Backend

    identity = _of_wrapped("identity")
    tokens: TokenCounter = _of_wrapped("tokens")
    batch_size = _of_wrapped("batch_size")
    costs_money = _of_wrapped("costs_money")
    generate = _of_wrapped("generate")
    tasks = _of_wrapped("tasks")
    sees_pictures = _of_wrapped("sees_pictures")
    takes_verbatim = _of_wrapped("takes_verbatim")
    caches_prefixes = _of_wrapped("caches_prefixes")
    shares_batches = _of_wrapped("shares_batches")
    batch_characters = _of_wrapped("batch_characters")
    default_method = _of_wrapped("default_method")
    settings_folder = _of_wrapped("settings_folder")
    base = _of_wrapped("base")
    files = _of_wrapped("files")
    warm_up = _of_wrapped("warm_up")
    close = _of_wrapped("close")
    set_batching = _of_wrapped("set_batching")
    report_tokens_to = _of_wrapped("report_tokens_to")


# For readers of a single attribute


def tasks_supported_by_backend(backend: Any) -> frozenset[type[Any]]:
    """Return the task classes that a backend (or its class) supports; only `GenerationTask` if it states none."""
    return traits(backend).tasks


def task_backend_sees_pictures(backend: Any) -> bool:
    """Return whether a backend (or its class) accepts prompts with pictures; false unless it states otherwise."""
    return traits(backend).sees_pictures


def task_backend_takes_verbatim(backend: Any) -> bool:
    """Return whether a backend (or its class) accepts verbatim prompts; true unless it states otherwise."""
    return traits(backend).takes_verbatim


def task_backend_is_selectable(backend: Any) -> bool:
    """Return whether users can select a backend with the model name; true unless its class states otherwise."""
    return traits(backend).selectable

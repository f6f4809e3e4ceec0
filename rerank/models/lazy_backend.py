"""A backend of a local model whose weights are loaded at the first call.

What a finished run or an estimate needs, identity and token counts, is known without the weights.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rerank.errors import BackendError
from rerank.prompts.base import TokenCounter
from rerank.tasks import Backend, BackendOptions, Reply, Request, backend_settings_folder, tasks_supported_by_backend


class Description(Protocol):
    """What the ``describe`` method of a backend's class returns: a model without its weights."""

    @property
    def name(self) -> str | Path:
        """Folder of the model, or its id on the hub."""

    @property
    def options(self) -> BackendOptions:
        """How the model is loaded."""

    @property
    def identity(self) -> Mapping[str, str]:
        """The identity of the backend."""

    @property
    def device(self) -> str:
        """The device that the model is loaded to."""

    @property
    def tokens(self) -> TokenCounter:
        """The token counter of the backend."""


class LazyBackend:
    """A backend that loads its model at the first call.

    Other methods and properties of its class are available too, and load the model.

    Args:
        backend_type: The class of the backend, with the methods ``load_described(description)`` and
            ``choose_batch_size(options, kind of device)``.
        description: The model, from ``backend_type.describe``.
    """

    def __init__(self, backend_type: Any, description: Description) -> None:
        """Store the description; nothing is loaded."""
        self._type, self._description = backend_type, description
        self._loaded: Backend | None = None
        self._lock = threading.Lock()

    @property
    def tasks(self) -> frozenset[type[Any]]:
        """The tasks that the backend supports."""
        return tasks_supported_by_backend(self._type)

    @property
    def costs_money(self) -> bool:
        """Whether calls cost money."""
        return bool(self._type.costs_money)

    @property
    def identity(self) -> Mapping[str, str]:
        """The identity of the model when it was described."""
        return self._description.identity

    @property
    def tokens(self) -> TokenCounter:
        """The model's token counter; the tokenizer is loaded at the first access."""
        return self._description.tokens

    @property
    def batch_size(self) -> int:
        """Number of requests decoded together."""
        kind = self._description.device.partition(":")[0]
        return int(self._type.choose_batch_size(self._description.options, kind))

    @property
    def settings_folder(self) -> Path | None:
        """The folder of the adapter or the trained model, whose settings apply to it; None for one on the hub."""
        return backend_settings_folder(self._description.name, self._description.options)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded is not None

    def warm_up(self) -> Backend:
        """Load the model, unless it is loaded already, and return its backend.

        Raises:
            RerankError: The model cannot be loaded.
            BackendError: Its files were changed since it was described.
        """
        with self._lock:
            if self._loaded is None:
                loaded: Backend = self._type.load_described(self._description)
                if dict(loaded.identity) != dict(self.identity):
                    raise BackendError(
                        f"Model {self.identity['model']!r} was changed while it was in use",
                        expected="the files that it had when the command started",
                        remedy="Run the command again",
                    )
                self._loaded = loaded
            return self._loaded

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order.

        Raises:
            RerankError: The model cannot be loaded, or fails.
        """
        return self.warm_up().generate(requests)

    def __getattr__(self, name: str) -> Any:
        """Return another attribute of the backend's class, from the loaded backend if it belongs to an instance."""
        if name.startswith("_"):  # copying and pickling ask for such names before there is a class
            raise AttributeError(name)
        value = getattr(self._type, name)  # an attribute that no backend of this class has does not load the model
        is_of_instances = callable(value) or isinstance(value, property)
        return getattr(self.warm_up(), name) if is_of_instances else value

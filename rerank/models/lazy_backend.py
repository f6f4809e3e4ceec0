"""A backend of a local model whose weights are loaded at the first call.

What a finished run or an estimate needs, identity and token counts, is known without the weights.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import BackendError
from rerank.prompts.base import TokenCounter
from rerank.tasks import Reply, Request, folder_with_settings, supported_tasks

if TYPE_CHECKING:
    from rerank.backends.hf import Hf
    from rerank.lm.model_description import ModelDescription


class LazyBackend:
    """A backend that loads its model at the first call.

    Other methods and properties of its class are available too, and load the model.

    Args:
        backend_type: The class of the backend: `Hf`, or a subclass.
        description: The model.
    """

    def __init__(self, backend_type: type[Hf], description: ModelDescription) -> None:
        """Store the description; nothing is loaded."""
        self._type, self._description = backend_type, description
        self._loaded: Hf | None = None
        self._lock = threading.Lock()

    @property
    def tasks(self) -> frozenset[type[Any]]:
        """The tasks that the backend supports."""
        return supported_tasks(self._type)

    @property
    def costs_money(self) -> bool:
        """Whether calls cost money."""
        return self._type.costs_money

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
        return self._type.choose_batch_size(self._description.options, kind)

    @property
    def settings_folder(self) -> Path | None:
        """The folder of the adapter or the model, whose settings `Reranker.from_backend` uses."""
        return folder_with_settings(self._description.name, self._description.options)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded is not None

    def warm_up(self) -> Hf:
        """Load the model, unless it is loaded already, and return its backend.

        Raises:
            RerankError: The model cannot be loaded.
            BackendError: Its files were changed since it was described.
        """
        with self._lock:
            if self._loaded is None:
                loaded = self._type.load_described(self._description)
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

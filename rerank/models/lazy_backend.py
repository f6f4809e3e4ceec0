"""A backend for a local model whose weights are loaded at the first call.

Reading a finished run or estimating a cost requires only identity and token counts, which are known without weights.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rerank.errors import BackendError
from rerank.io.forks import ForkLock
from rerank.io.model_base import ModelBase
from rerank.lm.model_files import ModelFiles
from rerank.lm.model_process import LocalModel
from rerank.prompts.base import TokenCounter
from rerank.tasks import Backend, Reply, Request, task_backend_settings_folder, tasks_supported_by_backend
from rerank.tasks.backends import traits


class LazyBackend:
    """A backend that loads its model at the first call.

    All other methods and properties of the backend's class are available too; using them loads the model. The class
    has the methods ``load_described(description)`` and ``choose_batch_size(options, kind of device)``. The
    description is what its ``describe`` returned, such as a `ModelDescription`: files, options, identity, device
    and token counter of a model whose weights are not loaded.
    """

    def __init__(self, backend_type: Any, description: Any) -> None:
        self._type, self._description = backend_type, description
        self.files: ModelFiles | None = getattr(description, "files", None)
        self._loaded: Backend | None = None
        self._on_tokens: Callable[[float], None] | None = None
        self._lock = ForkLock()

    @property
    def tasks(self) -> frozenset[type[Any]]:
        tasks: frozenset[type[Any]] | None = getattr(self._description, "tasks", None)  # if they depend on the model
        return tasks_supported_by_backend(self._type) if tasks is None else tasks

    @property
    def has_pair_template(self) -> bool:
        return bool(getattr(self._description, "has_pair_template", traits(self._type).has_pair_template))

    @property
    def vllm_options(self) -> str:
        """The option with which another process opens the same model."""
        return str(self._description.options.vllm_options)

    @property
    def identity(self) -> Mapping[str, str]:
        identity: Mapping[str, str] = self._description.identity
        return identity

    @property
    def tokens(self) -> TokenCounter:
        tokens: TokenCounter = self._description.tokens  # the tokenizer is loaded at the first access
        return tokens

    @property
    def batch_size(self) -> int:
        kind = self._description.device.partition(":")[0]
        return int(self._type.choose_batch_size(self._description.options, kind))

    @property
    def batch_characters(self) -> int | None:
        """Maximum number of characters of the prompts in a batch; None if only the batch size is limited."""
        choose = getattr(self._type, "choose_batch_characters", None)  # of transformers only
        size: int | None = choose and choose(self._description.options, self._description.device.partition(":")[0])
        return size

    @cached_property
    def batch_tokens(self) -> int | None:
        """Maximum number of tokens of a batch in the memory that is free beside the weights; None for no maximum."""
        plan = getattr(self._type, "plan_batch_tokens", None)  # of transformers only
        tokens: int | None = plan and plan(self._description)
        return tokens

    @property
    def gpus(self) -> int:
        choose = getattr(self._type, "choose_gpus", None)
        return int(choose(self._description.options)) if choose else 0

    @property
    def settings_folder(self) -> Path | None:
        name: str | Path = self.files.folder if self.files else getattr(self._description, "name", "")
        return task_backend_settings_folder(name, self._description.options)

    @property
    def base(self) -> ModelBase | None:
        return self.files.base if self.files else None

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    def warm_up(self) -> Backend:
        """Load the model, unless it is loaded already, and return its backend."""
        with self._lock.lock:
            if self._loaded is None:
                loaded: Any = self._type.load_described(self._description)
                if dict(loaded.identity) != dict(self.identity):
                    raise BackendError(
                        f"Model {self.identity['model']!r} was changed while it was in use",
                        expected="the files that it had when the command started",
                        remedy="Run the command again",
                    )
                self._loaded = loaded
                if isinstance(loaded, LocalModel) and self.files:
                    loaded.files = self.files
                self._report_tokens()
            return self._loaded

    def expect_requests(self, longest: Callable[[], int]) -> None:
        """Plan the model for requests whose longest has this number of tokens, if it is not loaded yet."""
        if self._loaded is None and (plan := getattr(self._description, "for_requests", None)):
            self._description = plan(longest)

    def report_tokens_to(self, on_tokens: Callable[[float], None] | None) -> None:
        self._on_tokens = on_tokens
        self._report_tokens()

    def _report_tokens(self) -> None:
        if self._loaded is not None:
            traits(self._loaded).report_tokens_to(self._on_tokens)

    def close(self) -> None:
        """Close the loaded backend; a later call uses it again."""
        if self._loaded is not None:
            traits(self._loaded).close()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return self.warm_up().generate(requests)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling look up such names before _type is set
            raise AttributeError(name)
        is_set_on_instances = any(name in inspect.get_annotations(base) for base in self._type.__mro__)
        if is_set_on_instances and not hasattr(self._type, name):
            return getattr(self.warm_up(), name)
        value = getattr(self._type, name)  # raises AttributeError for unknown attributes, without loading the model
        is_of_instances = callable(value) or isinstance(value, property)
        return getattr(self.warm_up(), name) if is_of_instances else value


class AsyncLazyBackend(LazyBackend):
    """A `LazyBackend` for a model that accepts single requests at any time."""

    async def agenerate(self, request: Request) -> Reply:
        loaded: Any = self._loaded or await asyncio.to_thread(self.warm_up)
        reply: Reply = await loaded.agenerate(request)
        return reply

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

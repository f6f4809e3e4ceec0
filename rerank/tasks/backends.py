"""Backends: their optional attributes with defaults and delegation, batch interfaces, identities and context sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from rerank.errors import UsageError, ensure
from rerank.io.model_base import ModelBase
from rerank.prompts.base import TokenCounter
from rerank.settings import ModelSettings
from rerank.tasks.kinds import GenerationTask
from rerank.tasks.requests import Backend, Reply, Request


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
    #: Whether the model's chat template itself makes the text of a query and a passage.
    has_pair_template: bool = False
    #: Whether a cross-encoder task's query and documents are read apart, so that the query takes up no context.
    reads_apart: bool = False
    #: Maximum number of tokens of such a query that the model reads; None for no maximum of its own.
    query_limit: int | None = None
    #: What the scores of a cross-encoder task are: ``sigmoid`` for logits; ``same`` if they are already what a server
    #: sends, such as probabilities; empty if the server that scores only states an order.
    score_unit: Literal["sigmoid", "same", ""] = "sigmoid"
    #: Whether users can select the backend with the model's name.
    selectable: bool = True
    #: Whether the options ``tensor_parallel_size``, ``pipeline_parallel_size`` and ``vllm_options`` have an effect.
    takes_parallel_sizes: bool = False
    #: Whether the option ``attention`` has an effect.
    takes_attention: bool = False
    #: Whether the option ``merge_adapter`` has an effect.
    merges_adapters: bool = False
    #: Whether one batch with the requests of several callers is faster than one batch per caller.
    shares_batches: bool = False
    #: Whether it schedules the requests of a block itself, so that a run may divide its lists evenly among workers.
    schedules_requests: bool = False
    #: Number of GPUs that a process needs for the model, if there are any; 0 if the model is not in this process.
    gpus: int = 0
    #: Maximum number of characters of the prompts in a batch; None for no maximum.
    batch_characters: int | None = None
    #: Maximum number of padded tokens of a batch of a model in this process; None for no maximum.
    batch_tokens: int | None = None
    #: Maximum number of pairs of query and passage per batch of a cross-encoder; None for other backends.
    pairs_per_batch: int | None = None
    #: Tokens per reply for the thoughts of a model that thinks unasked, which estimates of the cost include.
    thought_room: int = 0
    #: The method that ``auto`` stands for; empty for the general default.
    default_method: str = ""
    #: Folder of the adapter or the trained model, with the settings that `Reranker.from_backend` uses; None if unknown.
    settings_folder: Path | None = None
    #: The option ``vllm_options`` with which another process opens the same model.
    vllm_options: str = ""
    #: The published model whose weights the backend runs; None if it is not known.
    base: ModelBase | None = None
    #: The files of a local model (`rerank.lm.model_files.ModelFiles`); None if there are none or they are not known.
    files: Any = None

    def warm_up(self) -> object:
        """Load the model now if it would otherwise be loaded at the first call."""

    def close(self) -> None:
        """Close connections and files; a later request opens them again."""

    def set_batching(self, batch_size: int, *, reuse: bool, tokens: int | None = None) -> None:
        """Use the batching of a recorded run, so that its results are bit-identical after it is resumed."""

    def expect_requests(self, longest: Callable[[], int]) -> None:
        """Learn, before the model is loaded, how many tokens of prompt and reply the longest request may have."""

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
    has_pair_template = _of_wrapped("has_pair_template")
    reads_apart = _of_wrapped("reads_apart")
    query_limit = _of_wrapped("query_limit")
    score_unit = _of_wrapped("score_unit")
    shares_batches = _of_wrapped("shares_batches")
    schedules_requests = _of_wrapped("schedules_requests")
    gpus = _of_wrapped("gpus")
    batch_characters = _of_wrapped("batch_characters")
    batch_tokens = _of_wrapped("batch_tokens")
    pairs_per_batch = _of_wrapped("pairs_per_batch")
    thought_room = _of_wrapped("thought_room")
    default_method = _of_wrapped("default_method")
    settings_folder = _of_wrapped("settings_folder")
    vllm_options = _of_wrapped("vllm_options")
    base = _of_wrapped("base")
    files = _of_wrapped("files")
    warm_up = _of_wrapped("warm_up")
    close = _of_wrapped("close")
    set_batching = _of_wrapped("set_batching")
    expect_requests = _of_wrapped("expect_requests")
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


# Batch interfaces


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """The state of a batch of requests at its provider."""

    id: str
    state: str  # name of the state in the provider's API
    total: int = 0  # number of requests in the batch; 0 if the provider has not counted them yet
    done: int = 0  # number of requests that have been answered or have failed
    has_ended: bool = False  # whether the batch has reached a final state
    #: Whether the batch ended because its time limit was reached. The requests that were not answered may be submitted
    #: in another batch.
    has_expired: bool = False
    problem: str = ""  # why the provider stopped the batch; empty if it was completed or has expired
    files: tuple[str, ...] = ()  # names of the files that contain the results
    omitted: tuple[str, ...] = ()  # fields that were left out of the requests because the server refuses them


@dataclass(kw_only=True)
class BatchReplies:
    """The results of a batch of requests."""

    #: Mapping from the digest of each request to its reply. Requests that failed are missing.
    replies: dict[str, Reply] = field(default_factory=dict)
    #: Messages about requests that failed and about lines of the results that were ignored.
    problems: list[str] = field(default_factory=list)


class BatchInterface(Protocol):
    """A provider's batch interface: many requests in one file, answered within a day at a lower price.

    Its methods block, and raise `BackendError` if the provider cannot be used.
    """

    def divide(self, requests: Mapping[str, Request]) -> Iterator[dict[str, Request]]:
        """Divide requests, keyed by their digests, into as many batches as the provider's limits require."""

    def submit(self, requests: Mapping[str, Request], key: str) -> str:
        """Submit a batch, unless the provider already has a batch with this key, and return the id of the batch.

        The key is unique to the batch, and has at most 64 characters.
        """

    def find(self, key: str) -> str:
        """Return the id of the batch that was submitted with this key; empty if the provider has none."""

    def wait(self, batch_id: str, on_status: Callable[[BatchStatus], None]) -> BatchStatus:
        """Wait until a batch has ended, and call ``on_status`` with each status received from the provider."""

    def collect(self, status: BatchStatus, requests: Mapping[str, Request]) -> BatchReplies:
        """Return the results of a batch that has ended, for the given requests only."""


# Identities and settings


_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_base_of_backend(backend: Any) -> ModelBase | None:
    """Return the published model whose weights a backend, or the backend that it wraps, runs; None if not known."""
    while backend is not None:
        base: ModelBase | None = getattr(backend, "base", None)
        if base is not None:
            return base
        backend = getattr(backend, "backend", None)
    return None


def lacks_commit(recorded: Mapping[str, str], current: Mapping[str, str], revision: str | None = None) -> bool:
    """Return whether two identities of a model on the hub differ only in a commit that was not recorded.

    With transformers 5.24 or later, earlier versions of this package recorded the revision that the user named.
    ``revision`` is the one that the user names now; None if it is not known.
    """
    branch = recorded.get("revision", "")
    return (
        bool(_COMMIT.fullmatch(current.get("revision", "")))
        and not _COMMIT.fullmatch(branch)
        and revision in (None, branch)
        and {**recorded, "revision": ""} == {**current, "revision": ""}
    )


#: The name under which the arguments of backends refer to the settings of their model.
BackendOptions = ModelSettings


def task_backend_settings_folder(name: str | Path, options: BackendOptions) -> Path | None:
    """Return the absolute path of the adapter's or the model's folder with its settings; None for an id on the hub."""
    folder = Path(options.adapter or name)
    return folder.absolute() if folder.is_dir() else None


def resolve_task_context_size(stated: int | None, options: BackendOptions, model: str) -> int:
    """Return the context size of a model: the size that the model states or, if None, the size in the options.

    A smaller size in the options does not change the result; it limits prompts elsewhere (`PromptBudget`).
    Raises `UsageError` if it exceeds the stated size, or neither is known.
    """
    if stated and options.context_size:
        ensure(
            options.context_size <= stated,
            f"--context-size is {options.context_size}",
            expected=f"at most {stated}, the context size of the model",
            remedy="Omit --context-size to use the whole context",
        )
    if (size := stated or options.context_size) is None:
        raise UsageError(
            f"Model {model!r} does not state its context size",
            expected="max_position_embeddings in its config",
            remedy="Set --context-size TOKENS",
        )
    return size

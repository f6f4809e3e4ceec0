"""The backend ``hf``: local causal language models through transformers."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rerank.lm import loading
from rerank.lm.jobs import Job, tokenize_requests
from rerank.lm.memory import (
    MOST_CHARACTERS,
    MOST_ROWS,
    MemoryPlan,
    choose_batch_tokens,
    padded_lengths,
    plan_memory,
    plan_tokens,
    split_into_batches,
)
from rerank.lm.model_process import (
    LocalModel,
    broadcast_batch,
    check_scores,
    follow_leader,
    is_split,
    require_model_process,
)
from rerank.lm.out_of_memory import BatchLimit, run_batches
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.tasks import (
    AttentionTask,
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Reply,
    Request,
    resolve_task_context_size,
)

if TYPE_CHECKING:
    from rerank.lm.prefix_cache import PrefixCache

#: Default maximum number of prompts per batch, by kind of device. On a CPU, larger batches gain little and need more
#: memory. On a GPU, batches are limited by their tokens, too (`choose_batch_tokens`).
DEFAULT_BATCH = {"cpu": 4, "mps": MOST_ROWS, "cuda": MOST_ROWS}
#: Default maximum number of characters of the prompts in a batch on a CPU, about 12,000 tokens. Four prompts with 100
#: passages take minutes, during which an interrupted run would lose all of them.
CPU_BATCH_CHARACTERS = 48_000


class Hf(LocalModel):
    """A backend that runs a causal language model with the library transformers.

    Only the options ``batch_size``, ``context_size``, ``reuse`` and ``deterministic`` have an effect once it is loaded.
    """

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask, LogitTask, AttentionTask})
    takes_attention = merges_adapters = True
    #: Classes of transformers that load the model and its tokenizer.
    classes: ClassVar[tuple[str, str]] = loading.LANGUAGE
    #: The transformers model.
    model: Any

    def __init__(
        self, model: Any, tokenizer: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None
    ) -> None:
        require_model_process()
        options = options or BackendOptions()
        stated = stated_context_size(model, tokenizer)
        size = resolve_task_context_size(stated, options, identity.get("model", ""))
        self.model = model
        self.identity = dict(identity)
        self.tokens = HfTokens(tokenizer, context_size=size)
        self.batch_size = self.choose_batch_size(options, model.device.type)
        self.batch_characters = self.choose_batch_characters(options, model.device.type)
        self.batch_tokens = choose_batch_tokens(options, str(model.device), lambda: self._plan)
        self._reuse = options.reuse and not options.deterministic
        self._limits: dict[type[Any], BatchLimit] = defaultdict(BatchLimit)
        self._hooks: list[Any] = []  # of `report_tokens_to`
        # A task changes the model while it runs: attention function, output head, generation config.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        return cls._load(name, options or BackendOptions())

    @classmethod
    def _load(cls, name: str | Path, options: BackendOptions, tokens: HfTokens | None = None) -> Self:
        loaded = loading.load_language_model(name, options, cls.classes, tokenizer=tokens and tokens.tokenizer)
        with loading.named_loading_errors(loaded.files, options.device):
            backend = cls(loaded.model, loaded.tokenizer, identity=loaded.identity, options=options)
        backend.tokens = tokens or backend.tokens
        backend.set_source(loaded.files, options)
        if is_split(loaded.model):
            follow_leader(backend._run)
        return backend

    @staticmethod
    def choose_batch_size(options: BackendOptions, device: str) -> int:
        return 1 if options.deterministic else options.batch_size or DEFAULT_BATCH.get(device, 4)

    @staticmethod
    def choose_batch_characters(options: BackendOptions, device: str) -> int | None:
        most = {"cpu": CPU_BATCH_CHARACTERS, "mps": MOST_CHARACTERS, "cuda": MOST_CHARACTERS}
        return most.get(device) if options.batch_size is None else None

    @staticmethod
    def plan_batch_tokens(description: loading.ModelDescription) -> int | None:
        """Return the maximum number of tokens per batch of a model whose weights are not loaded yet; None for none."""
        files, dtype = description.files, description.identity["dtype"]
        return choose_batch_tokens(description.options, description.device, lambda: plan_memory(files, dtype))

    @classmethod
    def describe(cls, name: str | Path, options: BackendOptions) -> loading.ModelDescription | None:
        """Describe the model that `load` would load, such as its identity; None if that requires loading it."""
        return loading.describe_files(name, options) if cls.classes == loading.LANGUAGE else None

    @classmethod
    def load_described(cls, description: loading.ModelDescription) -> Self:
        return cls._load(description.files.name, description.options, description.tokens)

    @property
    def shares_batches(self) -> bool:  # type: ignore[override]
        """Whether one batch with requests of several callers is faster than one batch per caller; false on a CPU."""
        return str(self.model.device.type) != "cpu"

    def set_batching(self, batch_size: int, *, reuse: bool, tokens: int | None = None) -> None:
        self.batch_size, self._reuse, self.batch_tokens = batch_size, reuse, tokens
        vars(self).pop("_prefixes", None)

    def report_tokens_to(self, on_tokens: Callable[[float], None] | None) -> None:
        """Call a function after each layer with the number of tokens divided by the number of layers; None ends it.

        The layers are the first list of modules whose length is the number of layers in the config of the model.
        """
        from torch.nn import ModuleList

        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if on_tokens is None:
            return
        count = self.model.config.get_text_config().num_hidden_layers

        def report(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs:
                on_tokens(inputs[0].shape[:-1].numel() * (1 / count))

        lists = (module for module in self.model.modules() if isinstance(module, ModuleList) and len(module) == count)
        self._hooks = [layer.register_forward_hook(report) for layer in next(lists, ())]

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order.

        Requests with the same class of task share batches. Longer prompts come first: batches then need little padding,
        and if memory runs out, it does so early. A request that does not fit in the context, or does not fit in memory
        even in a batch of its own, gets a reply with ``finish="error"``. Only one thread at a time uses the model.
        """
        require_model_process()
        replies, groups = tokenize_requests(requests, self.tokens, self.identity.get("model", ""))
        for jobs in groups:
            jobs.sort(key=lambda job: (-len(job.prompt), job.index))
            size = 1 if type(jobs[0].request.task) is AttentionTask else self.batch_size
            lengths = [0] * len(jobs) if self.batch_tokens is None else padded_lengths(jobs, self.tokens, self._plan)
            for batch in split_into_batches(lengths, rows=size, tokens=self.batch_tokens):
                with self._lock:
                    replies |= self._run_batch(jobs[batch])
        return [replies[index] for index in range(len(requests))]

    def _run_batch(self, jobs: list[Job]) -> dict[int, Reply]:
        """Run jobs with tasks of one class in one batch, and return a mapping from the index of each job to its reply.

        If memory runs out, the batch is run in parts (`rerank.lm.out_of_memory`). What fits is remembered per class
        of tasks, since they need different amounts of memory for a prompt of the same length.
        """
        limit = self._limits[type(jobs[0].task)]
        replies: dict[int, Reply] = {}
        for batch, found in run_batches(
            jobs, self._run_once, length=_room, limit=limit, what="requests", prefixes=self._prefixes
        ):
            tokens = len(batch[0].prompt)
            error = f"Out of memory on one request with a prompt of {tokens} tokens: {limit.reason}"
            found = found or [Reply(tokens_in=tokens, finish="error", error=error)]
            replies |= {job.index: reply for job, reply in zip(batch, found, strict=True)}
        return replies

    def _run_once(self, jobs: Sequence[Job]) -> list[Reply]:
        started = time.perf_counter()
        if is_split(self.model):  # also for parts of a batch, so that followers run the same passes
            broadcast_batch(jobs)
        replies = self._run(list(jobs))
        check_scores(score for reply in replies for score in reply.scores)
        seconds = (time.perf_counter() - started) / len(jobs)
        return [replace(reply, seconds=seconds) for reply in replies]

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.lm.jobs import add_thoughts
        from rerank.lm.local_tasks import TASK_RUNNERS, decode_thought_token_ids

        with loading.quiet_transformers():
            if any(job.sampling.thinking for job in jobs):
                jobs = add_thoughts(partial(decode_thought_token_ids, self.model, self.tokens), self.tokens, jobs)
            return TASK_RUNNERS[type(jobs[0].request.task)](self.model, self.tokens, jobs, self._prefixes)

    @cached_property
    def _plan(self) -> MemoryPlan:
        return plan_tokens(self.model.config, str(self.model.dtype).removeprefix("torch."))

    @cached_property
    def _prefixes(self) -> PrefixCache | None:
        from rerank.lm.prefix_cache import PrefixCache, supports_prefixes

        return PrefixCache(self.model) if self._reuse and supports_prefixes(self.model) else None


def _room(job: Job) -> int:
    """Return the number of tokens of a prompt and of the text that may be generated after it."""
    generates = isinstance(job.task, GenerationTask)
    return len(job.prompt) + (job.sampling.thinking + job.sampling.max_tokens) * generates

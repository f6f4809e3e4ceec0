"""Local models through transformers: batches, memory, and what a reply cost. Knows no template and no parser.

Torch and transformers are imported when a model is loaded, not when this module is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from rerank.errors import BackendError
from rerank.lm.jobs import Job, sort_out
from rerank.lm.loading import LANGUAGE, load, quiet, require_torch
from rerank.lm.tensor_parallel import is_split, lead_or_follow, tell
from rerank.lm.tokenizers import HfTokens, context_size
from rerank.prompts.base import TokenCounter
from rerank.tasks import (
    AttentionTask,
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Reply,
    Request,
    context_of,
)

#: Requests decoded together where nobody says how many: on a CPU more bring little and cost memory.
DEFAULT_BATCH = {"cpu": 4, "mps": 8, "cuda": 16}


class Hf:
    """A causal language model of transformers as a backend.

    Args:
        model: The model, in evaluation mode on its device.
        tokenizer: Its tokenizer.
        identity: What tells this model from others.
        options: Batch and context size are used; None takes the defaults.

    Raises:
        UsageError: The context is not stated by the model and not given.
    """

    answers: ClassVar[frozenset[type[Any]]] = frozenset(
        {GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask, AttentionTask}
    )
    #: A local model costs time, and its runs are kept in their own folders.
    costs_money = False
    #: Classes of transformers that open it.
    classes: ClassVar[tuple[str, str]] = LANGUAGE

    def __init__(
        self, model: Any, tokenizer: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None
    ) -> None:
        """Wrap what is loaded; see `load`."""
        options = options or BackendOptions()
        size = context_of(context_size(model, tokenizer), options, identity.get("model", ""))
        self._model = model
        self._identity = dict(identity)
        self._tokens = HfTokens(tokenizer, context_size=size)
        self._batch_size = options.batch_size or DEFAULT_BATCH.get(model.device.type, 4)
        self._turn = threading.Lock()  # a task changes the model while it runs: attention, last matrix, settings

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        """Load a model from a folder or from the hub.

        Args:
            name: A folder that ``save_pretrained`` wrote, or an id on the hub.
            options: How to load and run it.

        Raises:
            MissingPrerequisiteError: Torch or transformers are not installed.
            MissingResourceError: There is no such model.
            UsageError: An option does not fit this machine or model.
        """
        options = options or BackendOptions()
        model, tokenizer, identity = load(name, options, cls.classes)
        made = cls(model, tokenizer, identity=identity, options=options)
        if is_split(model):
            lead_or_follow(made._do)
        return made

    @classmethod
    def from_loaded(
        cls, model: Any, tokenizer: Any, *, name: str = "in-memory", options: BackendOptions | None = None
    ) -> Self:
        """Wrap a model that is in memory already. Its identity is the name alone: two models need two names."""
        require_torch()
        dtype = str(model.dtype).removeprefix("torch.")
        return cls(model.eval(), tokenizer, identity={"model": name, "dtype": dtype}, options=options)

    @property
    def model(self) -> Any:
        """The model, for those who train it."""
        return self._model

    @property
    def identity(self) -> Mapping[str, str]:
        """Name, hash or revision, dtype, adapter."""
        return self._identity

    @property
    def tokens(self) -> TokenCounter:
        """How the model counts."""
        return self._tokens

    @property
    def batch_size(self) -> int:
        """Requests decoded together; halved for a batch that does not fit into memory."""
        return self._batch_size

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order.

        Requests of one kind are done together, longer prompts first, so that a batch pads little and memory runs out
        early if it does. A request that does not fit the context, or not into memory even alone, is a reply with
        ``finish="error"``. Threads that share a model take turns.

        Raises:
            BackendError: The model fails for another reason than memory.
            UsageError: The model is of a kind that cannot do the task.
        """
        replies, kinds = sort_out(requests, self._tokens, self._identity.get("model", ""))
        for jobs in kinds:
            jobs.sort(key=lambda job: (-len(job.prompt), job.at))
            size = 1 if jobs[0].kind is AttentionTask else self._batch_size
            for start in range(0, len(jobs), size):
                with self._turn:
                    replies |= self._answer(jobs[start : start + size])
        return [replies[at] for at in range(len(requests))]

    def _answer(self, jobs: list[Job]) -> dict[int, Reply]:
        """Do one batch, in halves if it does not fit into memory."""
        from rerank.lm.decoding import is_out_of_memory

        started = time.perf_counter()
        if is_split(self._model):
            tell(jobs)
        try:
            answers = self._do(jobs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise BackendError(f"The model failed on a batch of {len(jobs)}: {error}") from error
            trouble = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            seconds = (time.perf_counter() - started) / len(jobs)
            return {job.at: replace(reply, seconds=seconds) for job, reply in zip(jobs, answers, strict=True)}
        # Outside the handler: there the failed call's frames would still hold its memory.
        self._release()
        if len(jobs) == 1:
            length = len(jobs[0].prompt)
            return {jobs[0].at: Reply(text="", tokens_in=length, finish="error", error=f"Out of memory: {trouble}")}
        half = len(jobs) // 2
        return self._answer(jobs[:half]) | self._answer(jobs[half:])

    def _do(self, jobs: list[Job]) -> list[Reply]:
        from rerank.lm.local_tasks import DO, muse
        from rerank.lm.thinking import think

        with quiet():
            jobs = think(partial(muse, self._model, self._tokens), self._tokens, jobs)
            return DO[jobs[0].kind](self._model, self._tokens, jobs)

    def _release(self) -> None:
        torch, _ = require_torch()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

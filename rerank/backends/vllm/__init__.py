"""Local models through vLLM, in this process: batches of any size that share what their prompts have in common.

Knows no template and no parser. vLLM, torch and transformers are imported when a model is loaded, not when this module
is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import BackendError, UsageError
from rerank.lm.jobs import Job, sort_out
from rerank.lm.loading import quiet
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import TokenCounter
from rerank.tasks import (
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from rerank.backends.vllm.engine import Engine
    from rerank.backends.vllm.tasks import Ask

#: Requests handed over together where nobody says how many. vLLM schedules them itself; what is handed over together is
#: committed together.
DEFAULT_BATCH = 1024


class Vllm:
    """A causal language model of vLLM as a backend.

    Attention is not to be had from it: its kernels keep none. A process holds one such model: loading another ends the
    one before.

    Args:
        engine: What `rerank.backends.vllm.engine` started.
        options: The batch size is used.
    """

    answers: ClassVar[frozenset[type[Any]]] = frozenset(
        {GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask}
    )
    #: A local model costs time, and its runs are kept in their own folders.
    costs_money = False

    def __init__(self, engine: Engine, options: BackendOptions | None = None) -> None:
        """Wrap what is started; see `load`."""
        self._engine = engine
        self._tokens = HfTokens(engine.tokenizer, context_size=engine.context_size)
        self._batch_size = (options and options.batch_size) or DEFAULT_BATCH
        self._dead = False
        self._turn = threading.Lock()

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Vllm:
        """Load a model from a folder or from the hub.

        Args:
            name: A folder that ``save_pretrained`` wrote, or an id on the hub.
            options: How to load and run it.

        Raises:
            MissingPrerequisiteError: vLLM is not installed.
            MissingResourceError: There is no such model or adapter.
            UsageError: An option does not fit this machine or model, or vLLM does not do such adapters.
            BackendError: vLLM does not start.
        """
        from rerank.backends.vllm.engine import start

        options = options or BackendOptions()
        return cls(start(name, options), options)

    @property
    def identity(self) -> Mapping[str, str]:
        """Name, hash or revision, dtype, engine, adapter."""
        return self._engine.identity

    @property
    def tokens(self) -> TokenCounter:
        """How the model counts."""
        return self._tokens

    @property
    def batch_size(self) -> int:
        """Requests handed over together."""
        return self._batch_size

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order.

        A request that does not fit the context is a reply with ``finish="error"``.

        Raises:
            BackendError: The engine failed; it answers no more.
        """
        started = time.perf_counter()
        replies, kinds = sort_out(requests, self._tokens, self.identity.get("model", ""))
        for jobs in kinds:
            replies |= {job.at: reply for job, reply in zip(jobs, self._do(jobs), strict=True)}
        seconds = (time.perf_counter() - started) / max(1, len(requests))
        return [replace(replies[at], seconds=seconds) for at in range(len(requests))]

    def _do(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vllm.tasks import DO, muse
        from rerank.lm.thinking import think

        with self._turn, quiet():
            jobs = think(partial(muse, self._run), self._tokens, jobs)
            return DO[jobs[0].kind](self._run, self._tokens, jobs)

    def _run(self, asked: Sequence[Ask]) -> list[Any]:
        """Ask the engine; what it was at when it failed would come back among later answers, so it is not asked again.

        Raises:
            BackendError: It fails, or has failed before.
            UsageError: It does not decode so.
        """
        if not asked:
            return []
        if self._dead:
            raise BackendError("vLLM has failed before", remedy="Load the model again")
        if not self._engine.alive:
            raise BackendError(
                "Another model was loaded since, and vLLM holds one in a process",
                remedy="Load this one again, or set VLLM_ENABLE_V1_MULTIPROCESSING=1, which gives each a process",
            )
        params = [_parameters(ask) for ask in asked]
        prompts = [{"prompt_token_ids": list(ask.prompt)} for ask in asked]
        self._dead = True
        try:
            outs = self._engine.llm.generate(prompts, params, use_tqdm=False, lora_request=self._engine.adapter)
        except Exception as error:
            raise BackendError(
                f"vLLM failed on a batch of {len(asked)} requests: {error or repr(error)}",
                remedy="Run again with --resume, which keeps what is finished; a smaller --batch-size or "
                "--context-size needs less memory, and --model hf:NAME runs the model through transformers",
            ) from error
        self._dead = False
        return [out.outputs[0] for out in outs]


def _parameters(ask: Ask) -> Any:
    from vllm import SamplingParams

    try:
        return SamplingParams(**{"temperature": 0.0, "detokenize": False, **ask.fields})
    except Exception as error:  # of a class that changed between versions; nothing is done here but checking
        raise UsageError(f"vLLM does not decode as asked: {error}") from error

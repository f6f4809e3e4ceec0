"""The backend ``vllm``: local models through vLLM in this process, with prefix caching and large batches.

vLLM, torch and transformers are imported when a model is loaded, not when this module is imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import BackendError, UsageError
from rerank.lm.jobs import Job, tokenize_requests
from rerank.lm.loading import quiet_transformers
from rerank.lm.model_process import LocalModel, require_model_process
from rerank.lm.tokenizers import HfTokens
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
    from rerank.backends.vllm.engine import EnginePlan, VllmEngine
    from rerank.backends.vllm.tasks import EngineRequest

#: Default number of requests passed to vLLM at once. vLLM schedules them itself, and their replies are committed
#: together.
DEFAULT_BATCH = 1024


class Vllm(LocalModel):
    """A backend that runs a causal language model with vLLM; of the options, only the batch size has an effect.

    Attention scores are not supported, since vLLM's kernels do not return attention weights. A process holds one
    model: loading another model stops the first one.
    """

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask})
    shares_batches = True
    takes_parallel_sizes = True
    caches_prefixes = True

    def __init__(self, engine: VllmEngine, options: BackendOptions | None = None) -> None:
        require_model_process()
        self._engine = engine
        self.identity = engine.identity
        self.tokens = HfTokens(engine.tokenizer, context_size=engine.context_size)
        self.batch_size = self.choose_batch_size(options or BackendOptions(), "")
        self._has_failed = False
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Vllm:
        """Load a model from a folder written by ``save_pretrained`` or from the hub."""
        return cls.load_described(cls.describe(name, options or BackendOptions()))

    @classmethod
    def describe(cls, name: str | Path, options: BackendOptions) -> EnginePlan:
        from rerank.backends.vllm.engine import plan_engine

        return plan_engine(name, options)

    @classmethod
    def load_described(cls, description: EnginePlan) -> Vllm:
        """Start the planned engine, and return a backend that uses the token counter of the plan."""
        from rerank.backends.vllm.engine import start_engine

        backend = cls(start_engine(description), description.options)
        backend.tokens = description.tokens
        backend.set_source(description.files, description.options)
        return backend

    @staticmethod
    def choose_batch_size(options: BackendOptions, device: str) -> int:
        return options.batch_size or DEFAULT_BATCH

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        require_model_process()
        started = time.perf_counter()
        replies, groups = tokenize_requests(requests, self.tokens, self.identity.get("model", ""))
        for jobs in groups:
            replies |= {job.index: reply for job, reply in zip(jobs, self._run(jobs), strict=True)}
        seconds = (time.perf_counter() - started) / max(1, len(requests))
        return [replace(replies[index], seconds=seconds) for index in range(len(requests))]

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vllm.tasks import TASK_RUNNERS, generate_thoughts
        from rerank.lm.jobs import add_thoughts

        with self._lock, quiet_transformers():
            jobs = add_thoughts(partial(generate_thoughts, self._run_engine), self.tokens, jobs)
            return TASK_RUNNERS[jobs[0].task_type](self._run_engine, self.tokens, jobs)

    def _run_engine(self, requests: Sequence[EngineRequest]) -> list[Any]:
        """Run requests in the engine and return vLLM's ``CompletionOutput`` of each request.

        The engine is not used again after a failure, since later outputs would contain its unfinished requests.
        """
        if not requests:
            return []
        if self._has_failed:
            raise BackendError("vLLM failed in an earlier call", remedy="Load the model again")
        if not self._engine.alive:
            raise BackendError(
                "Another model was loaded in the meantime, and vLLM holds one model per process",
                remedy="Load this model again, or set VLLM_ENABLE_V1_MULTIPROCESSING=1 to run each model in its own "
                "process",
            )
        from vllm import SamplingParams

        try:
            defaults = {"temperature": 0.0, "detokenize": False}
            params = [SamplingParams(**{**defaults, **request.parameters}) for request in requests]
        except Exception as error:  # the class differs between versions; the call only validates its arguments
            raise UsageError(f"vLLM does not accept the sampling settings: {error}") from error
        prompts = [{"prompt_token_ids": list(request.prompt)} for request in requests]
        self._has_failed = True
        try:
            outputs = self._engine.llm.generate(prompts, params, use_tqdm=False, lora_request=self._engine.adapter)
        except Exception as error:
            raise BackendError(
                f"vLLM failed on a batch of {len(requests)} requests: {error or repr(error)}",
                remedy="Run again with --resume, which keeps finished results; a smaller --batch-size or "
                "--context-size needs less memory, and --model hf:NAME runs the model through transformers",
            ) from error
        self._has_failed = False
        return [output.outputs[0] for output in outputs]

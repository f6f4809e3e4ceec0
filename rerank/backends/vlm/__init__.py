"""The backend ``vlm``: vision-language models through transformers, one request at a time.

Torch, transformers and Pillow are imported when a model is loaded, not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from rerank.backends.hf import Hf
from rerank.backends.vlm.tokens import VlmTokens
from rerank.errors import BackendError, UsageError
from rerank.io.pictures import UNREADABLE, require_pillow
from rerank.lm.jobs import Job, limit_tokens
from rerank.lm.loading import quiet_transformers
from rerank.lm.model_process import require_model_process
from rerank.tasks import (
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Reply,
    Request,
)


class Vlm(Hf):
    """A backend for models of ``AutoModelForImageTextToText``, such as Qwen2.5-VL or SmolVLM.

    Chats without pictures work as well. A request whose picture is missing or damaged gets a reply with
    ``finish="error"`` and an error message with the path of the file.

    The arguments are those of `Hf`, with a processor instead of a tokenizer; only the context size has an effect.
    """

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask})
    sees_pictures = True
    takes_verbatim = False  # chats are rendered with the template of the processor
    classes: ClassVar[tuple[str, str]] = ("AutoModelForImageTextToText", "AutoProcessor")

    def __init__(
        self, model: Any, processor: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None
    ) -> None:
        if not hasattr(processor, "image_processor"):
            raise UsageError(
                f"The processor of model {identity.get('model', '')!r} is a {type(processor).__name__}",
                expected="a processor of texts and pictures",
                remedy="Use a vision-language model",
            )
        # Pillow and torchvision resize pictures slightly differently, and transformers uses the one that is installed.
        identity = {**identity, "processor": type(processor.image_processor).__name__}
        super().__init__(model, processor.tokenizer, identity=identity, options=options)
        self.tokens: VlmTokens = VlmTokens(processor, context_size=self.tokens.context_size)
        self.batch_size = 1  # pictures need much memory, and models batch prompts with pictures differently

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        """Load a model from a folder written by ``save_pretrained`` of model and processor, or from the hub."""
        require_pillow()
        if options and options.device_map == "tp":
            raise UsageError(
                "--device-map is tp, but the model is a vision-language model",
                expected="auto, balanced, sequential, or no device map",
            )
        return super().load(name, options)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        require_model_process()
        with self._lock:
            return [self._reply(index, request) for index, request in enumerate(requests)]

    def _reply(self, index: int, request: Request) -> Reply:
        if request.sampling.thinking:
            raise UsageError(
                f"--thinking-tokens is {request.sampling.thinking}, but the model is a vision-language model",
                expected="0: this backend does not separate thoughts from answers",
            )
        if type(request.task) not in self.tasks:
            task = type(request.task).__name__
            return Reply(finish="error", error=f"The backend 'vlm' does not support {task}")
        try:
            job = self._job(index, request)
        except UNREADABLE as error:
            return Reply(finish="error", error=str(error))
        return job if isinstance(job, Reply) else self._run_batch([job])[index]

    def _job(self, index: int, request: Request) -> Job | Reply:
        from rerank.backends.vlm.tasks import PictureJob

        with quiet_transformers():
            inputs = self.tokens.inputs(request.prompt)
        prompt = inputs["input_ids"][0].tolist()
        available = self.tokens.context_size - len(prompt)
        if available < min(1, request.sampling.max_tokens):
            error = (
                f"The prompt has {len(prompt)} tokens with its pictures, but the context of "
                f"{self.identity.get('model', '')!r} holds {self.tokens.context_size} tokens of prompt and reply"
            )
            return Reply(tokens_in=len(prompt), finish="error", error=error)
        return PictureJob(
            index=index,
            request=request,
            prompt=prompt,
            sampling=limit_tokens(request.sampling, available),
            inputs={  # pictures are tensors of floating-point numbers
                name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
                for name, value in inputs.items()
            },
        )

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vlm.tasks import TASK_RUNNERS, PictureJob

        replies = []
        for job in jobs:
            if not isinstance(job, PictureJob):
                raise BackendError(f"A job has the class {type(job).__name__}", expected="PictureJob")
            with quiet_transformers():
                replies.append(TASK_RUNNERS[job.task_type](self.model, self.tokens, job))
        return replies

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
from rerank.lm.jobs import Job, limit_decoding_tokens
from rerank.lm.loading import quiet_transformers
from rerank.lm.model_process import require_model_process
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


class Vlm(Hf):
    """A backend for models of ``AutoModelForImageTextToText``, such as Qwen2.5-VL or SmolVLM.

    Chats without pictures work as well. A request whose picture is missing or damaged gets a reply with
    ``finish="error"`` and an error message with the path of the file.

    Args:
        model: The model, in evaluation mode on its device.
        processor: The processor of the model.
        identity: Name, hash or revision, dtype and adapter of the model.
        options: Backend options; None for the defaults. Only the context size has an effect.
    """

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask})
    #: Whether prompts may show pictures.
    sees_pictures = True
    #: Chats are rendered with the template of the processor.
    takes_verbatim = False
    classes: ClassVar[tuple[str, str]] = ("AutoModelForImageTextToText", "AutoProcessor")

    def __init__(
        self, model: Any, processor: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None
    ) -> None:
        """Wrap a model that is already loaded. To load a model by name, use `load`."""
        if not hasattr(processor, "image_processor"):
            raise UsageError(
                f"The processor of model {identity.get('model', '')!r} is a {type(processor).__name__}",
                expected="a processor of texts and pictures",
                remedy="Use a vision-language model",
            )
        # Pillow and torchvision resize pictures slightly differently, and transformers uses the one that is installed.
        identity = {**identity, "processor": type(processor.image_processor).__name__}
        super().__init__(model, processor.tokenizer, identity=identity, options=options)
        self._pictures = VlmTokens(processor, context_size=self._tokens.context_size)

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        """Load a model from a folder or from the hub.

        Args:
            name: A folder written by ``save_pretrained`` of model and processor, or an id on the hub.
            options: Options for loading and running the model; None for the defaults.
        """
        require_pillow()
        if options and options.device_map == "tp":
            raise UsageError(
                "--device-map is tp, but the model is a vision-language model",
                expected="auto, balanced, sequential, or no device map",
            )
        return super().load(name, options)

    @property
    def tokens(self) -> TokenCounter:
        """The model's token counter, which also counts the tokens of pictures."""
        return self._pictures

    @property
    def batch_size(self) -> int:
        """The batch size, always 1: pictures need much memory, and models batch prompts with pictures differently."""
        return 1

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order, one at a time.

        A request that does not fit in the context or in memory, or whose picture cannot be read, gets a reply with
        ``finish="error"``. Only one thread at a time uses the model.
        """
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
            inputs = self._pictures.inputs(request.prompt)
        prompt = inputs["input_ids"][0].tolist()
        available = self._pictures.context_size - len(prompt)
        if available < min(1, request.sampling.max_tokens):
            error = (
                f"The prompt has {len(prompt)} tokens with its pictures, but the context of "
                f"{self._identity.get('model', '')!r} holds {self._pictures.context_size} tokens of prompt and reply"
            )
            return Reply(tokens_in=len(prompt), finish="error", error=error)
        return PictureJob(
            index=index,
            request=request,
            prompt=prompt,
            sampling=limit_decoding_tokens(request.sampling, available),
            inputs=self._to_device(inputs),
        )

    def _to_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Move the tensors to the model's device, and convert floating-point tensors (pictures) to its dtype."""
        model = self._model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vlm.tasks import TASK_RUNNERS, PictureJob

        replies = []
        for job in jobs:
            if not isinstance(job, PictureJob):
                raise BackendError(f"A job has the class {type(job).__name__}", expected="PictureJob")
            with quiet_transformers():
                replies.append(TASK_RUNNERS[job.task_type](self._model, self._pictures, job))
        return replies

"""Vision-language models through transformers: chats with pictures, asked one at a time. Knows no judge.

Torch, transformers and Pillow are imported when a model is loaded, not when this module is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from rerank.backends.hf import Hf
from rerank.backends.vlm.tokens import VlmTokens
from rerank.errors import BackendError, UsageError
from rerank.io.pictures import UNREADABLE, require_pillow
from rerank.lm.jobs import Job, limited
from rerank.lm.loading import quiet
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
    """A model of transformers' ``AutoModelForImageTextToText`` as a backend, such as Qwen2.5-VL or SmolVLM.

    It answers chats without pictures too. A request whose picture is missing or damaged is a reply with
    ``finish="error"`` that names the file.

    Args:
        model: The model, in evaluation mode on its device.
        processor: Its processor.
        identity: What tells this model from others.
        options: The context size is used; None takes the model's.

    Raises:
        UsageError: The processor takes no pictures or has no chat template, or the context is not stated by the model
            and not given.
    """

    answers: ClassVar[frozenset[type[Any]]] = frozenset(
        {GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask}
    )
    classes: ClassVar[tuple[str, str]] = ("AutoModelForImageTextToText", "AutoProcessor")

    def __init__(
        self, model: Any, processor: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None
    ) -> None:
        """Wrap what is loaded; see `load`."""
        if not hasattr(processor, "image_processor"):
            raise UsageError(
                f"The processor of model {identity.get('model', '')!r} is a {type(processor).__name__}",
                expected="one that takes texts and pictures",
                remedy="Name a vision-language model",
            )
        # Pillow and torchvision shrink pictures a little differently, and transformers takes what is installed.
        identity = {**identity, "processor": type(processor.image_processor).__name__}
        super().__init__(model, processor.tokenizer, identity=identity, options=options)
        self._pictures = VlmTokens(processor, context_size=self._tokens.context_size)

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        """Load a model from a folder or from the hub.

        Args:
            name: A folder that ``save_pretrained`` of model and processor wrote, or an id on the hub.
            options: How to load and run it.

        Raises:
            MissingPrerequisiteError: Torch, transformers or Pillow are not installed, or what the processor needs.
            MissingResourceError: There is no such model.
            UsageError: An option does not fit this machine or model.
        """
        require_pillow()
        if options and options.device_map == "tp":
            raise UsageError(
                "--device-map tp with a vision-language model", expected="auto, balanced or sequential, or none"
            )
        return super().load(name, options)

    @property
    def tokens(self) -> TokenCounter:
        """How the model counts, pictures included."""
        return self._pictures

    @property
    def batch_size(self) -> int:
        """One: pictures take much memory, and models differ in how they take several prompts with pictures."""
        return 1

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order, one at a time.

        A request that does not fit the context or into memory, or whose picture cannot be read, is a reply with
        ``finish="error"``. Threads that share a model take turns.

        Raises:
            BackendError: The model fails for another reason, or its chat template does not take the chat.
            UsageError: A request asks for thoughts.
        """
        with self._turn:
            return [self._reply(at, request) for at, request in enumerate(requests)]

    def _reply(self, at: int, request: Request) -> Reply:
        if request.sampling.thinking:
            raise UsageError(
                f"--thinking-tokens {request.sampling.thinking} with a vision-language model",
                expected="0: its thoughts are not separated from its answers here",
            )
        if type(request.task) not in self.answers:
            task = type(request.task).__name__.lower()
            return Reply(finish="error", error=f"A vision-language model is not asked to {task}")
        try:
            job = self._job(at, request)
        except UNREADABLE as error:
            return Reply(finish="error", error=str(error))
        return job if isinstance(job, Reply) else self._answer([job])[at]

    def _job(self, at: int, request: Request) -> Job | Reply:
        from rerank.backends.vlm.tasks import Seeing

        with quiet():
            inputs = self._pictures.inputs(request.prompt)
        prompt = inputs["input_ids"][0].tolist()
        room = self._pictures.context_size - len(prompt)
        if room < min(1, request.sampling.max_tokens):
            error = (
                f"The prompt has {len(prompt)} tokens with its pictures, and the context of "
                f"{self._identity.get('model', '')!r} holds {self._pictures.context_size} with the reply"
            )
            return Reply(tokens_in=len(prompt), finish="error", error=error)
        return Seeing(
            at=at, request=request, prompt=prompt, sampling=limited(request.sampling, room), inputs=self._moved(inputs)
        )

    def _moved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The same tensors on the model's device, pictures in its number format."""
        model = self._model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _do(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vlm.tasks import DO, Seeing

        replies = []
        for job in jobs:
            if not isinstance(job, Seeing):
                raise BackendError(f"A job of the class {type(job).__name__} for a vision-language model")
            with quiet():
                replies.append(DO[job.kind](self._model, self._pictures, job))
        return replies

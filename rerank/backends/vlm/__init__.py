"""The backend ``vlm``: vision-language models through transformers, one request at a time, and their token counter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from rerank.backends.hf import Hf
from rerank.errors import BackendError, UsageError
from rerank.io.pictures import UNREADABLE, open_picture, require_pillow
from rerank.lm.jobs import Job
from rerank.lm.loading import quiet_transformers
from rerank.lm.model_process import require_model_process
from rerank.lm.tokenizers import ChatRenderer, HfTokens
from rerank.prompts.base import PICTURE, Message, Prompt
from rerank.registry import plugin_name
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

    Chats may have no pictures. A request whose picture is missing or damaged gets a reply with ``finish="error"``
    and an error message with the path of the file. Of the options, only the context size has an effect.
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
        self.tokens: VlmTokens = self._make_tokens(processor)
        self.batch_size = 1  # pictures need much memory, and models batch prompts with pictures differently

    def _make_tokens(self, processor: Any) -> VlmTokens:
        return VlmTokens(processor, context_size=self.tokens.context_size)

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
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
            return Reply(finish="error", error=f"The backend {plugin_name(type(self))!r} does not support {task}")
        from rerank.backends.vlm.tasks import PictureJob

        try:
            with quiet_transformers():
                inputs = self.tokens.inputs(request.prompt)
        except UNREADABLE as error:
            return Reply(finish="error", error=str(error))
        prompt = inputs["input_ids"][0].tolist()
        available = self.tokens.context_size - len(prompt)
        if available < min(1, request.sampling.max_tokens):
            found = (
                f"The prompt has {len(prompt)} tokens with its pictures, but the context of "
                f"{self.identity.get('model', '')!r} holds {self.tokens.context_size} tokens of prompt and reply"
            )
            return Reply(tokens_in=len(prompt), finish="error", error=found)
        job = PictureJob(
            index=index,
            request=request,
            prompt=prompt,
            sampling=replace(request.sampling, max_tokens=min(request.sampling.max_tokens, available)),
            inputs={  # pictures are tensors of floating-point numbers
                name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
                for name, value in inputs.items()
            },
        )
        return self._run_batch([job])[index]

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vlm.tasks import TASK_RUNNERS, PictureJob

        replies = []
        for job in jobs:
            if not isinstance(job, PictureJob):
                raise BackendError(f"A job has the class {type(job).__name__}", expected="PictureJob")
            with quiet_transformers():
                replies.append(TASK_RUNNERS[type(job.request.task)](self.model, self.tokens, job))
        return replies


class PictureChat(ChatRenderer):
    """A renderer of chats whose turns are lists of texts and pictures, as vision-language chat templates expect."""

    def __init__(self, processor: Any) -> None:
        self._template = processor.chat_template or processor.tokenizer.chat_template
        if not self._template:
            raise UsageError(
                "The model has no chat template, so pictures cannot be placed in a prompt",
                expected="a model that was trained on chats, usually named ...-Instruct",
            )
        super().__init__(processor.tokenizer)
        self.has_template = True
        self._takes_system = self._accepts_system()
        #: Tokens that the processor replaces by a picture. They are escaped in texts, which must not become pictures.
        self.marks = tuple(
            dict.fromkeys(str(mark) for name in ("image_token", "boi_token") if (mark := getattr(processor, name, "")))
        )
        marks = "|".join(re.escape(mark) for mark in self.marks)
        self._special = re.compile(f"{self._special.pattern}|{marks}") if marks else self._special

    def _apply(self, prompt: Prompt, *, thinking: bool = False) -> str:
        turns = [{"role": m.role, "content": _content_parts(m)} for m in prompt]
        text = self._tokenizer.apply_chat_template(
            turns, chat_template=self._template, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return str(text)


class VlmTokens(HfTokens):
    """A `TokenCounter` that uses a processor of transformers and includes the tokens of pictures."""

    def __init__(self, processor: Any, *, context_size: int, chat: Any = None) -> None:
        super().__init__(processor.tokenizer, context_size=context_size)
        self._processor = processor
        self.chat: Any = chat or PictureChat(processor)

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """Return the model inputs: ``input_ids`` of shape (1, tokens), and the tensors of the pictures."""
        text = self.render(prompt)
        pictures = [open_picture(path) for message in prompt for path in message.images]
        if len(pictures) > max((text.count(mark) for mark in self.chat.marks), default=len(pictures)):
            raise BackendError(
                f"The model's chat template omits some of the {len(pictures)} pictures of the prompt",
                remedy="Use a model whose template accepts several pictures, or --method pointwise-images",
            )
        images = {"images": pictures} if pictures else {}
        try:
            inputs = self._processor(text=[text], return_tensors="pt", add_special_tokens=False, **images)
        except (ValueError, TypeError, IndexError) as error:
            raise BackendError(
                f"The model's processor refuses a prompt with {len(pictures)} pictures: {error}",
                remedy="Use a model that accepts several pictures, or --method pointwise-images",
            ) from error
        return dict(inputs)

    def encode(self, prompts: list[Prompt], *, thinking: bool = False) -> list[list[int]]:
        return [self.inputs(prompt)["input_ids"][0].tolist() for prompt in prompts]

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt. If any picture cannot be read, only the text is counted."""
        try:
            return super().count(prompt)
        except UNREADABLE:
            texts = tuple(Message(m.role, m.content.replace(PICTURE, "")) for m in prompt)
            return super().count(texts)


def _content_parts(message: Message) -> Sequence[dict[str, str]]:
    if not message.images:
        return [{"type": "text", "text": message.content}]
    first, *rest = message.content.split(PICTURE)
    parts = [{"type": "text", "text": first}]
    for text in rest:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    return [part for part in parts if part.get("text") != ""]

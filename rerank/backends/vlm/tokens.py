"""Render chats with pictures and count their tokens, with the processor of a vision-language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rerank.errors import BackendError, UsageError
from rerank.io.pictures import UNREADABLE, open_picture
from rerank.lm.chat_templates import ChatRenderer
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import PICTURE, Message, Prompt


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

    def __init__(self, processor: Any, *, context_size: int) -> None:
        super().__init__(processor.tokenizer, context_size=context_size)
        self._processor = processor
        self.chat: PictureChat = PictureChat(processor)
        self._picture_tokens = lru_cache(maxsize=1 << 14)(self._count_picture)

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

    def picture_tokens(self, path: str) -> int:
        """Return the number of tokens of a picture, including the tokens around it; 0 if the file cannot be read."""
        try:
            return self._picture_tokens(path)
        except UNREADABLE:
            return 0

    def _count_picture(self, path: str) -> int:
        message = Message("user", PICTURE, images=(path,))
        with_picture, without = self.encode([(message,), (replace(message, content="", images=()),)])
        return len(with_picture) - len(without)


def _content_parts(message: Message) -> Sequence[dict[str, str]]:
    """Return the parts of a turn, in the form that chat templates expect: texts and placeholders for pictures."""
    if not message.images:
        return [{"type": "text", "text": message.content}]
    first, *rest = message.content.split(PICTURE)
    parts = [{"type": "text", "text": first}]
    for text in rest:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    return [part for part in parts if part.get("text") != ""]

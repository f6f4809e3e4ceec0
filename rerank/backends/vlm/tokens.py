"""How the processor of a vision-language model renders chats with pictures and counts them. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rerank.errors import BackendError, UsageError
from rerank.io.pictures import UNREADABLE, open_picture
from rerank.lm.chat_templates import Chat
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import PICTURE, Message, Prompt


class PictureChat(Chat):
    """Renders chats whose turns are lists of texts and pictures, as chat templates of vision-language models want.

    Args:
        processor: A processor of transformers.

    Raises:
        UsageError: It has no chat template, so that nothing says where a picture stands.
    """

    def __init__(self, processor: Any) -> None:
        """Find the template, which may be the tokenizer's."""
        self._template = processor.chat_template or processor.tokenizer.chat_template
        if not self._template:
            raise UsageError(
                "The model has no chat template, which says how a picture is shown to it",
                expected="a model that was trained on chats, most often named ...-Instruct",
            )
        super().__init__(processor.tokenizer)
        self.has_template = True
        self._takes_system = self._accepts_system()
        #: What the processor makes a picture of; a text that spells one out must not become one.
        self.marks = tuple(
            dict.fromkeys(str(mark) for name in ("image_token", "boi_token") if (mark := getattr(processor, name, "")))
        )
        marks = "|".join(re.escape(mark) for mark in self.marks)
        self._special = re.compile(f"{self._special.pattern}|{marks}") if marks else self._special

    def _apply(self, prompt: Prompt, *, thinking: bool = False) -> str:
        turns = [{"role": m.role, "content": _parts(m)} for m in prompt]
        text = self._tokenizer.apply_chat_template(
            turns,
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        return str(text)


class VlmTokens(HfTokens):
    """A `TokenCounter` over a processor: pictures count as the tokens that they become.

    Args:
        processor: The processor.
        context_size: Tokens of prompt, pictures and reply together.

    Raises:
        UsageError: It has no chat template.
    """

    def __init__(self, processor: Any, *, context_size: int) -> None:
        """Keep the processor."""
        super().__init__(processor.tokenizer, context_size=context_size)
        self._processor = processor
        self.chat: PictureChat = PictureChat(processor)
        self._alone = lru_cache(maxsize=1 << 14)(self._count_alone)

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """What the model is given: ``input_ids`` of shape (1, tokens), and the pictures' tensors.

        Raises:
            DataError: A picture is damaged.
            MissingResourceError: A picture is not there.
            BackendError: The model's chat template or its processor does not take the chat.
        """
        text = self.render(prompt)
        pictures = [open_picture(path) for message in prompt for path in message.images]
        if len(pictures) > max((text.count(mark) for mark in self.chat.marks), default=len(pictures)):
            raise BackendError(
                f"The model's chat template leaves pictures out: of {len(pictures)}, not all are in the prompt",
                remedy="Use a model whose template takes several pictures, or --method pointwise-images",
            )
        given = {"images": pictures} if pictures else {}
        try:
            found = self._processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
        except (ValueError, TypeError, IndexError) as error:
            raise BackendError(
                f"The model's processor refuses a prompt with {len(pictures)} pictures: {error}",
                remedy="Use a model that takes so many, or --method pointwise-images",
            ) from error
        return dict(found)

    def encode(self, prompts: list[Prompt], *, thinking: bool = False) -> list[list[int]]:
        """Token ids of whole prompts, those that pictures become included.

        Raises:
            BackendError: As in `inputs`; or of a picture.
        """
        return [self.inputs(prompt)["input_ids"][0].tolist() for prompt in prompts]

    def count(self, prompt: Prompt) -> int:
        """Tokens of a whole prompt. A picture that cannot be read counts nothing: the request about it will fail."""
        try:
            return super().count(prompt)
        except UNREADABLE:
            texts = tuple(Message(m.role, m.content.replace(PICTURE, "")) for m in prompt)
            return super().count(texts)

    def picture_tokens(self, path: str) -> int:
        """Tokens that a picture becomes, with what stands around it; 0 if it cannot be read."""
        try:
            return self._alone(path)
        except UNREADABLE:
            return 0

    def _count_alone(self, path: str) -> int:
        shown = Message("user", PICTURE, images=(path,))
        with_it, without = self.encode([(shown,), (replace(shown, content="", images=()),)])
        return len(with_it) - len(without)


def _parts(message: Message) -> Sequence[dict[str, str]]:
    """A turn as its template is given it: texts and places of pictures."""
    if not message.images:
        return [{"type": "text", "text": message.content}]
    first, *rest = message.content.split(PICTURE)
    parts = [{"type": "text", "text": first}]
    for text in rest:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    return [part for part in parts if part.get("text") != ""]

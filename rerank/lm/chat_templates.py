"""A chat -> the text a tokenizer is given: chat template, its quirks, and what to do without one.

Knows templates and special tokens; knows no model and nothing of ranking.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from rerank.errors import BackendError
from rerank.prompts.base import Message, Prompt, opening

_PROBE = (Message("system", "a"), Message("user", "b"))


class Chat:
    """Renders chats for one tokenizer.

    A template that refuses the system role (Gemma's, early Mistral's) gets the system text at the head of the first
    user turn. A tokenizer without a template gets the turns joined by blank lines, as base models expect text.
    Templates with a thinking mode are told to leave it off, unless asked: thoughts use up a reply's tokens.
    A special token spelled out in a passage is broken up by a space, so that no passage can end a turn.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Find out once what the template can do."""
        self._tokenizer = tokenizer
        self.has_template = bool(tokenizer.chat_template)
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted({*added, *map(str, tokenizer.all_special_tokens)}, key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(token) for token in special if len(token) > 1) or r"(?!)")
        self._takes_system = self.has_template and self._accepts_system()

    def render(self, prompt: Prompt, *, thinking: bool = False) -> str:
        """The text that stands for ``prompt``, ending where the model is to answer.

        Args:
            prompt: The chat.
            thinking: Whether the model is to think first.

        Raises:
            BackendError: The template refuses the chat.
        """
        begun = opening(prompt)
        asked = prompt[:-1] if begun else prompt
        safe = tuple(replace(m, content=self.safe(m.content)) for m in asked)
        if not self.has_template:
            return "\n\n".join(m.content for m in safe) + "\n\n" + begun
        try:
            return self._apply(safe if self._takes_system else merge_system(safe), thinking=thinking) + begun
        except TemplateError as error:
            raise BackendError(
                f"The model's chat template refuses a chat of the roles {[m.role for m in prompt]}: {error}",
                expected="turns that alternate between user and assistant, after at most one system turn",
                remedy="Change the prompt, or use another model",
            ) from error

    def safe(self, text: str) -> str:
        """A text as it is shown: special tokens that are spelled out in it are broken up."""
        return self._special.sub(_broken, text)

    def _accepts_system(self) -> bool:
        try:
            return "a" in self._apply(_PROBE)
        except TemplateError:
            return False

    def _apply(self, prompt: Prompt, *, thinking: bool = False) -> str:
        turns = [{"role": m.role, "content": m.content} for m in prompt]
        text = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return str(text)


def merge_system(prompt: Prompt) -> Prompt:
    """Put the text of the system turns before that of the first user turn."""
    system = [m.content for m in prompt if m.role == "system"]
    turns = [m for m in prompt if m.role != "system"]
    for at, turn in enumerate(turns):
        if turn.role == "user":
            turns[at] = replace(turn, content="\n\n".join([*system, turn.content]))
            break
    return tuple(turns)


def _broken(match: re.Match[str]) -> str:
    return f"{match.group()[0]} {match.group()[1:]}"

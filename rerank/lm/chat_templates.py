"""Render chats as text, even if the chat template lacks a system role or the tokenizer has no template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from rerank.errors import BackendError, DataError
from rerank.io.forks import ends_in_child_process
from rerank.prompts.base import Message, Prompt, reply_prefix_of_prompt

_TALK = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
_PROBE = (Message("system", "a"), Message("user", "b"))


class ChatRenderer:
    """A renderer of chats for one tokenizer.

    - If the template refuses the system role (Gemma, early Mistral), the system text is moved to the first user turn.
    - Without a template, the turns are joined by blank lines, as base models expect plain text.
    - Thinking modes are switched off unless requested, since thoughts use up the tokens of the reply.
    - Special tokens spelled out in a passage are broken up by a space, so that no passage can end a turn.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.has_template = bool(tokenizer.chat_template)
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted({*added, *map(str, tokenizer.all_special_tokens)}, key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(token) for token in special if len(token) > 1) or r"(?!)")
        self._takes_system = False
        if self.has_template:
            # The model's template is rendered within limits of time and memory, since its loops may not end.
            if not ends_in_child_process(lambda: [self._apply(prompt) for prompt in (_TALK, _PROBE)]):
                raise DataError(
                    "The model's chat template was not rendered within 5 seconds and 1 GB of memory",
                    expected="a template whose loops end",
                    remedy="Check chat_template.jinja or tokenizer_config.json in the folder of the model",
                )
            self._takes_system = self._accepts_system()

    def render(self, prompt: Prompt, *, thinking: bool = False) -> str:
        """Return the text of a prompt, up to the point where the model continues."""
        prefix = reply_prefix_of_prompt(prompt)
        turns = prompt[:-1] if prefix else prompt
        escaped = tuple(replace(m, content=self.escape(m.content)) for m in turns)
        if turns and turns[0].role == "text":
            return self.text_start + "".join(m.content for m in escaped)
        if turns and turns[0].role == "verbatim":  # its marks of turns are intended; passages are already escaped
            return self.text_start + "".join(m.content for m in turns) + prefix
        if not self.has_template:
            return "\n\n".join(m.content for m in escaped) + "\n\n" + prefix
        try:
            chat = escaped if self._takes_system else merge_system_turns(escaped)
            return self._apply(chat, thinking=thinking) + prefix
        except TemplateError as error:
            raise BackendError(
                f"The model's chat template refuses a chat with the roles {[m.role for m in prompt]}: {error}",
                expected="turns that alternate between user and assistant, after at most one system turn",
                remedy="Change the prompt, or use another model",
            ) from error

    @cached_property
    def text_start(self) -> str:
        """The token that the tokenizer adds before a text; empty if none, or if there is no chat template."""
        start = self._tokenizer.bos_token_id
        is_added = self.has_template and start is not None and self._tokenizer("a")["input_ids"][:1] == [start]
        return str(self._tokenizer.bos_token) if is_added else ""

    def escape(self, text: str) -> str:
        """Insert a space into each special token that is spelled out in a text."""
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def locate(self, prompt: Prompt, text: str, positions: Iterable[tuple[int, int]]) -> list[int]:
        """Convert positions (turn, character in its content) in a prompt to character offsets in its rendered text.

        Positions in turns that the template omits or rewrites are left out.
        """
        contents = [turn.content if turn.role == "verbatim" else self.escape(turn.content) for turn in prompt]
        starts = _find_turns(contents, text)
        located = []
        for turn, offset in positions:
            before = prompt[turn].content[:offset]
            # Escaping special tokens lengthens a text.
            escaped = self.escape(before) if contents[turn] != prompt[turn].content else before
            start = starts[turn]
            if start is not None and contents[turn].startswith(escaped):
                located.append(max(0, start + len(escaped)))
        return located

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


def merge_system_turns(prompt: Prompt) -> Prompt:
    """Move the text of the system turns to the beginning of the first user turn."""
    system = [m.content for m in prompt if m.role == "system"]
    turns = [m for m in prompt if m.role != "system"]
    for index, turn in enumerate(turns):
        if turn.role == "user":
            turns[index] = replace(turn, content="\n\n".join([*system, turn.content]))
            break
    return tuple(turns)


def _find_turns(contents: Sequence[str], text: str) -> list[int | None]:
    """Return the offset of each turn's content in a rendered chat, even if it was stripped; None if not found."""
    starts: list[int | None] = []
    end = 0
    for content in contents:
        start, shown = text.find(content, end), content
        if start < 0:
            shown = content.strip()
            start = text.find(shown, end) if shown else -1
        starts.append(start - content.index(shown) if start >= 0 else None)
        end = start + len(shown) if start >= 0 else end
    return starts

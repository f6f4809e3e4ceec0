"""Rendering of chats, token counting, truncation, and positions of passages with a transformers tokenizer."""

import logging
import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

from jinja2 import TemplateError, TemplateRuntimeError

from rerank.errors import BackendError, DataError, UsageError
from rerank.io.forks import ends_in_child_process
from rerank.io.text_files import replace_lone_surrogates
from rerank.lm.joined_tokens import CARRIER, JoinedTokenizer, TokenIds, token_starts
from rerank.prompts.base import Message, Prompt, RenderedPrompt, reply_prefix_of_prompt
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo
from rerank.prompts.template import TEMPLATE_ERRORS

_log = logging.getLogger(__name__)

#: Tokenizers without a length limit state a limit far above this number.
_NO_LIMIT = 10**9
#: A text is cut after its beginning is tokenized: this many characters, and more for each token that is kept.
_HEAD, _HEAD_PER_TOKEN = 16_384, 16
#: Minimum number of tokens between the cut and the end of the beginning, which is tokenized like the end of a text.
_HEAD_MARGIN = 500
#: Maximum size of the memo of tokenized prompts, in bytes. Thanks to the memo, a prompt is tokenized only once, for
#: counting its tokens and for running it.
_PROMPTS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt after applying the chat template."""

    text: str  # the rendered prompt
    ids: tuple[int, ...]  # token ids of the rendered prompt
    ends: tuple[int, ...]  # ends of its sections in tokens, if they are tokenized one by one; otherwise empty


class HfTokens:
    """A `TokenCounter` that uses a transformers tokenizer.

    With ``join``, texts are tokenized from cached pieces if that is exact (`rerank.lm.joined_tokens`), otherwise as
    a whole. The token ids are the same in both cases.
    """

    def __init__(self, tokenizer: Any, *, context_size: int, join: bool = True) -> None:
        self.tokenizer = tokenizer
        # Long texts are counted here before they are cut, which is no reason for transformers to warn of errors.
        getattr(tokenizer, "deprecation_warnings", {})["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._join = join
        self.chat = ChatRenderer(tokenizer)
        self.context_size = context_size  # maximum number of tokens of prompt and reply together
        # The rendered text is about as long as the texts of the turns.
        self._prompts: BoundedMemo[tuple[Prompt, bool], TokenizedPrompt] = BoundedMemo(
            _PROMPTS_BYTES, lambda _, found: ENTRY_BYTES + 2 * sys.getsizeof(found.text) + 8 * len(found.ids)
        )

    @cached_property
    def turn_marks(self) -> tuple[str, ...]:
        """Added tokens in angle, square or curly brackets, which may delimit turns even if not marked as special."""
        added = map(str, self.tokenizer.added_tokens_decoder.values())
        return tuple(text for text in added if len(text) > 2 and text[0] in "<[{" and text[-1] in ">]}")

    def render(self, prompt: Prompt, *, thinking: bool = False) -> str:
        (tokenized,) = self._prompts.get_all([(prompt, thinking)])
        return tokenized.text if tokenized else self.chat.render(prompt, thinking=thinking)

    def encode(self, prompts: list[Prompt], *, thinking: bool = False) -> list[list[int]]:
        """Return the token ids of each rendered prompt; special tokens are added if there is no chat template."""
        return [list(self._tokenize(prompt, thinking=thinking).ids) for prompt in prompts]

    def ids(self, text: str) -> list[int]:
        if self.joined is None:
            return self._call(text, add_special_tokens=not self.chat.has_template)
        before, after = self._special
        return [*before, *self.joined.divide([text])[0].joined(), *after]

    def boundaries(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the lengths in tokens of a prompt's prefixes that end at boundaries of its template, in order.

        Every prompt that begins with the text of such a prefix also begins with its token ids. If a token spans
        a boundary, the boundary is moved before the preceding whitespace or omitted. There are none if the
        prompt was not rendered from a template, or the tokenizer does not tokenize the text before and after a
        boundary independently.
        """
        tokenized = self._tokenize(prompt)
        if tokenized.ends:
            return tuple(dict.fromkeys(length for length in tokenized.ends if 0 < length < len(tokenized.ids)))
        if self.joined is None or not isinstance(prompt, RenderedPrompt) or not prompt.boundaries:
            return ()
        ends = self.chat.locate(prompt, tokenized.text, prompt.boundaries)
        stripped = [len(tokenized.text[:end].rstrip()) for end in ends]
        lengths = self.joined.prefix_lengths(tokenized.text, [*ends, *stripped])
        pairs = zip(lengths[: len(ends)], lengths[len(ends) :], strict=True)
        before = len(self._special[0])
        whole = len(tokenized.ids) - before
        return tuple(sorted({before + end for exact, earlier in pairs if (end := exact or earlier) and end < whole}))

    def tokens_before(self, text: str, positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """Tokenize a rendered prompt with a fast tokenizer, and count the tokens that start before each position."""
        if self.joined is None or self._special[1]:  # special tokens at the end start where the last token ends
            ids, starts = self.starts(text)
            return ids, [bisect_left(starts, position) for position in positions]
        before, _ = self._special
        counts = zip(positions, self.joined.tokens_before(text, positions), strict=True)
        return self.ids(text), [len(before) + count if position else 0 for position, count in counts]

    def starts(self, text: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a rendered prompt and each token's first character, in order; needs a fast tokenizer.

        A special token that the tokenizer adds starts where the preceding token ends.
        """
        encoding = self.tokenizer(text, add_special_tokens=not self.chat.has_template, return_offsets_mapping=True)
        return encoding["input_ids"], token_starts(encoding["offset_mapping"])

    def text(self, ids: Sequence[int], *, special: bool = False) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def plain(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text on its own, without special tokens."""
        if self.joined is None:
            return tuple(self._call(text, add_special_tokens=False))
        return tuple(self.joined.divide([text])[0].joined())

    def count(self, prompt: Prompt) -> int:
        return len(self.encode([prompt])[0])

    def lengths(self, texts: list[str]) -> list[int]:
        if not texts:
            return []
        if self.joined is None:
            return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        return [sum(map(len, divided.ids)) for divided in self.joined.divide(texts)]

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest prefix of a text that ends at a token boundary and has at most ``tokens`` tokens.

        A prefix may be tokenized differently from the whole text, so its tokens are counted again.
        """
        if tokens <= 0:
            return ""
        text = self._head(text, tokens)
        ends = self.joined.ends(text, tokens) if self.joined else self._ends(text, tokens)
        return next((text[:end] for end in ends if self.lengths([text[:end]])[0] <= tokens), "")

    def _head(self, text: str, tokens: int) -> str:
        """Return the beginning of a text, which contains its first ``tokens`` tokens and more, or the whole text."""
        end = _HEAD + _HEAD_PER_TOKEN * tokens
        while end < len(text):
            head = self.joined.head(text, end) if self.joined else text[:end]
            if self.lengths([head])[0] > tokens + _HEAD_MARGIN:
                return head
            end *= 4
        return text

    def _ends(self, text: str, tokens: int) -> Iterable[int]:
        """Return candidates for the end of the prefix, in characters and in descending order."""
        if not self.tokenizer.is_fast:
            longest = bisect_right(range(len(text) + 1), tokens, key=lambda end: self.lengths([text[:end]])[0]) - 1
            return list(range(longest, 0, -1))
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(spans) <= tokens:
            return [len(text)]
        # Byte-level tokens of one character share its span. Ending at the next token's start keeps the character whole.
        return [min(spans[count - 1][1], spans[count][0]) for count in range(tokens, 0, -1)]

    def _tokenize(self, prompt: Prompt, *, thinking: bool = False) -> TokenizedPrompt:
        (tokenized,) = self._prompts.get_all([(prompt, thinking)])
        if tokenized is None:
            text = self.chat.render(prompt, thinking=thinking)
            sections = [turn.content for turn in prompt if turn.role == "verbatim"]
            if len(sections) > 1:
                rows = self._ids_of_sections(sections)
                tokenized = TokenizedPrompt(text, tuple(chain(*rows)), tuple(accumulate(map(len, rows))))
            else:
                tokenized = TokenizedPrompt(text, tuple(self.ids(text)), ())
            self._prompts.put_all([((prompt, thinking), tokenized)])
        return tokenized

    def _ids_of_sections(self, sections: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each section of a verbatim text; special tokens are added before and after them."""
        try:
            before, after = self._special
        except LookupError as error:
            raise BackendError(
                f"The sections of a prompt cannot be tokenized one by one: {error}",
                expected="a tokenizer of the model family for which the prompt was made",
            ) from error
        first, *inner, last = map(self.plain, (self.chat.text_start + sections[0], *sections[1:]))
        return [[*before, *first], *map(list, inner), [*last, *after]]

    @cached_property
    def joined(self) -> JoinedTokenizer | None:
        """The tokenizer that works piece by piece; None if it is switched off or would not be exact."""
        try:
            _ = self._special
        except LookupError:
            return None
        return JoinedTokenizer.of(self.tokenizer) if self._join else None

    @cached_property
    def _special(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer adds before and after a rendered prompt."""
        if self.chat.has_template:
            return [], []
        plain, whole = (self._call(CARRIER, add_special_tokens=special) for special in (False, True))
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        raise LookupError("the tokenizer changes the text, or adds special tokens inside it")

    def _call(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids


def tokenize_text_after(encode: Callable[[str], TokenIds], before: str, text: str) -> TokenIds:
    """Return the token ids of ``text`` after ``before``; those of ``text`` alone if a token spans the boundary."""
    head, whole = encode(before), encode(before + text)
    return whole[len(head) :] if whole[: len(head)] == head else encode(text)


def stated_context_size(model: Any, tokenizer: Any) -> int | None:
    """Return the smaller of the context sizes that model and tokenizer state; None if neither states one."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    stated = (getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None))
    sizes = [int(size) for size in stated if size is not None and 0 < size < _NO_LIMIT]
    return min(sizes) if sizes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpans:
    """A tokenized prompt with the token spans of its passages."""

    ids: tuple[int, ...]  # token ids of the rendered prompt
    spans: tuple[slice, ...]  # token span of each passage, as a slice of ``ids``
    tail: int  # index of the first token of the final instruction, which extends to the end of the prompt


def locate_passage_tokens(tokens: HfTokens, prompt: Prompt, spans: Sequence[tuple[int, int]], tail: int) -> PromptSpans:
    """Convert character spans in the last user turn to token spans in the rendered prompt.

    A token belongs to the span that contains its first character. ``tail`` is the index of the first character of
    the final instruction in that turn.
    """
    if not tokens.tokenizer.is_fast:
        raise UsageError(
            f"{type(tokens.tokenizer).__name__} provides no offset mapping from tokens to characters",
            expected="a model with a fast tokenizer (tokenizer.json)",
        )
    text, content, escaped, offset = _find_turn(tokens, prompt)
    positions = [position for span in spans for position in span] + [tail]
    if escaped != content:
        # Escaping special tokens lengthens the text, so the character positions are those in the escaped text.
        positions = [len(tokens.chat.escape(content[:position])) for position in positions]
    ids, counts = tokens.tokens_before(text, [offset + position for position in positions])
    passages = (slice(start, end) for start, end in zip(counts[:-1:2], counts[1::2], strict=True))
    return PromptSpans(ids=tuple(ids), spans=tuple(passages), tail=counts[-1])


def _find_turn(tokens: HfTokens, prompt: Prompt) -> tuple[str, str, str, int]:
    """Return the rendered prompt, its last user turn, the escaped turn, and its offset, even if it was stripped."""
    text = tokens.render(prompt)
    content = next(message.content for message in reversed(prompt) if message.role == "user")
    escaped = tokens.chat.escape(content)
    offset = text.rfind(escaped)
    if offset < 0:
        stripped = escaped.strip()
        offset = text.rfind(stripped) - escaped.index(stripped) if stripped in text else -1
    if offset < 0:
        raise BackendError(
            "The model's chat template rewrites the user turn, so the passages cannot be located in the prompt",
            remedy="Use another model, or another method",
        )
    return text, content, escaped, offset


def locate_tokens(
    tokens: HfTokens, prompt: Prompt, located: PromptSpans, spans: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Return the position of each token of the passages, in characters from the start of its passage."""
    text, content, escaped, offset = _find_turn(tokens, prompt)
    ids, starts = tokens.starts(text)
    if tuple(ids) != tuple(located.ids):
        raise BackendError(
            "The tokenizer returns different tokens when offsets are requested, so tokens cannot be located",
            remedy="Use another model for evidence",
        )
    positions = align_spaces(content, escaped) if escaped != content else range(len(content))
    return [
        [positions[starts[token] - offset] - start for token in range(token_span.start, token_span.stop)]
        for token_span, (start, _) in zip(located.spans, spans, strict=True)
    ]


def align_spaces(text: str, longer: str) -> list[int]:
    """Return, for each character of ``longer``, its position in ``text``; ``longer`` is ``text`` with added spaces.

    An added space has the position of the character after it.

    >>> align_spaces("a<s>b", "a< s>b")
    [0, 1, 2, 2, 3, 4]
    """
    positions = []
    at = 0
    for character in longer:
        positions.append(at)
        if at < len(text) and text[at] == character:
            at += 1
    return positions


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
        self._takes_system = self._has_warned = False
        if self.has_template:
            # The model's template is rendered within limits of time and memory, since its loops may not end.
            if not ends_in_child_process(self._render_samples):
                raise DataError(
                    "The model's chat template was not rendered within 5 seconds and 1 GB of memory",
                    expected="a template whose loops end",
                    remedy="Check chat_template.jinja or tokenizer_config.json in the folder of the model",
                )
            self._takes_system = self._accepts_system()

    def _render_samples(self) -> None:
        for prompt in (_TALK, _PROBE):
            self._apply(prompt)

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
            if not self._has_warned:
                self._has_warned = True
                _log.warning("The model has no chat template: the turns of a prompt are joined by blank lines")
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
        # The offset of each turn in the rendered chat, even if its content was stripped; None if it is not found.
        starts: list[int | None] = []
        end = 0
        for content in contents:
            start, shown = text.find(content, end), content
            if start < 0:
                shown = content.strip()
                start = text.find(shown, end) if shown else -1
            starts.append(start - content.index(shown) if start >= 0 else None)
            end = start + len(shown) if start >= 0 else end
        located = []
        for turn, offset in positions:
            before = prompt[turn].content[:offset]
            # Escaping special tokens lengthens a text.
            escaped = self.escape(before) if contents[turn] != prompt[turn].content else before
            found = starts[turn]
            if found is not None and contents[turn].startswith(escaped):
                located.append(max(0, found + len(escaped)))
        return located

    def _accepts_system(self) -> bool:
        try:
            return "a" in self._apply(_PROBE)
        except TemplateError:
            return False

    def _apply(self, prompt: Prompt, *, thinking: bool = False) -> str:
        turns = [{"role": m.role, "content": m.content} for m in prompt]
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
        except TEMPLATE_ERRORS as error:
            raise TemplateRuntimeError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        if replace_lone_surrogates(text) != text:  # those of queries and passages were replaced before
            raise TemplateRuntimeError("its text has half of a surrogate pair, which no tokenizer can encode")
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

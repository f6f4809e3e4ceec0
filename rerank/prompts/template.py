"""What a prompt template is and how it becomes a chat. Knows neither files nor token budgets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.prompts.base import Message, Prompt
from rerank.prompts.passages import escape_brackets
from rerank.prompts.sections import Section, Syntax, compile_section

Method = Literal["listwise", "singleturn_listwise", "multiturn_listwise", "pointwise"]
METHODS: tuple[Method, ...] = get_args(Method)

_EVERYWHERE = ("query", "num")
#: Section -> the placeholders that have a value there. ``passages`` is a list, so it makes sense in Jinja only.
PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "system": _EVERYWHERE,
    "prefix": (*_EVERYWHERE, "psg_ids", "passages"),
    "prefix_assistant": _EVERYWHERE,
    "body": (*_EVERYWHERE, "rank", "candidate", "score"),
    "body_assistant": (*_EVERYWHERE, "rank"),
    "suffix": (*_EVERYWHERE, "psg_ids", "passages"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A worked question, shown before the real one to models that do not know the form of the answer.

    Attributes:
        query: Its query.
        passages: Its passages.
        order: The right answer: their identifiers (from 1), best first.

    Raises:
        DataError: The order is no permutation of the identifiers.
    """

    query: str
    passages: tuple[str, ...]
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the answer."""
        if not self.passages or sorted(self.order) != list(range(1, len(self.passages) + 1)):
            raise DataError(
                f"The order {list(self.order)} of an example with {len(self.passages)} passages",
                expected="each identifier from 1 on, once",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """A listwise prompt: what stands before, around and behind the passages.

    Without assistant sections the chat is one user turn (after the system turn): prefix, one body a passage, suffix.
    ``prefix_assistant`` makes the prefix a turn of its own that the assistant answers so; ``body_assistant`` does the
    same to every passage, as RankGPT does (Sun et al., EMNLP 2023).

    Attributes:
        name: For messages.
        method: ``listwise`` ends the prefix and every body with a line break where they have none; the next two are
            rank_llm's and join the sections as they are written. ``pointwise`` shows one passage, so it needs no
            identifier, nor a query where the model is to write it.
        system: System turn; none if empty.
        prefix: What stands before the passages.
        prefix_assistant: The assistant's answer to the prefix.
        body: How one passage is shown.
        body_assistant: The assistant's answer to a passage.
        suffix: What stands behind the passages.
        reply_prefix: The beginning of the answer, put into the model's mouth; none if empty.
        examples: Worked questions, each a chat turn in the same words, answered as ``[2] > [1]``.
        syntax: ``braces`` or ``jinja``.
        escape_brackets: Whether ``[12]`` in passages and query becomes ``(12)``.
        pictures: Whether documents are shown as their pictures, which then stand where passages would.

    Raises:
        UnknownNameError: A placeholder that has no value where it stands.
        DataError: Passages or the query would not be shown, or the turns would not alternate.
    """

    name: str
    method: Method = "listwise"
    system: str = ""
    prefix: str = ""
    prefix_assistant: str = ""
    body: str = ""
    body_assistant: str = ""
    suffix: str = ""
    reply_prefix: str = ""
    examples: tuple[Example, ...] = ()
    syntax: Syntax = "braces"
    escape_brackets: bool = True
    pictures: bool = False

    def __post_init__(self) -> None:
        """Compile all sections and check that they make a chat about passages and a query."""
        names = {key: self._names(key) for key in PLACEHOLDERS}
        needed = {"candidate"} if self.method == "pointwise" else {"rank", "candidate"}
        if not needed <= names["body"] and "passages" not in names["prefix"] | names["suffix"]:
            raise DataError(
                f"The body of prompt {self.name!r} shows no passage",
                expected=f"placeholders for {' and '.join(map(repr, sorted(needed, reverse=True)))} in it",
            )
        asks = any("query" in names[key] for key in ("system", "prefix", "body", "suffix"))
        if not asks and self.method != "pointwise":
            raise DataError(f"Prompt {self.name!r} never shows the query", expected="a placeholder for 'query'")
        if self.examples and self.pictures:
            raise DataError(
                f"Prompt {self.name!r} has 'examples' and shows pictures, and examples are text", expected="one of both"
            )
        if self.examples and "score" in names["body"]:
            raise DataError(
                f"Prompt {self.name!r} has 'examples' and shows scores, and examples have none", expected="one of both"
            )
        self._check_turns()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of everything but the name."""
        content = {key: value for key, value in asdict(self).items() if key != "name"}
        if not self.pictures:
            del content["pictures"]  # so that prompts are what they were before there was such a thing
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def render(
        self,
        query: str,
        passages: Sequence[str],
        *,
        scores: Sequence[float] | None = None,
        labels: Sequence[str] | None = None,
    ) -> Prompt:
        """Make the chat.

        Args:
            query: The query's text.
            passages: The passages' texts, in the order of their identifiers.
            scores: Their first-stage scores, for prompts that show them.
            labels: Their identifiers, without brackets; 1, 2, ... if None.

        Raises:
            DataError: The prompt shows scores and none are given, or a Jinja section fails.
        """
        names = list(labels) if labels is not None else [str(at) for at in range(1, len(passages) + 1)]
        shared = self._shared(query, passages)
        turns = [Message("system", self._section("system").fill(shared))] if self.system else []
        for example in self.examples:
            named = [*names, *map(str, range(len(names) + 1, len(example.passages) + 1))]
            turns += self._question(self._shared(example.query, example.passages), named)
            turns.append(Message("assistant", " > ".join(f"[{named[number - 1]}]" for number in example.order)))
        turns += self._question(shared, names, scores)
        return (*turns, Message("assistant", self.reply_prefix)) if self.reply_prefix else tuple(turns)

    def _shared(self, query: str, passages: Sequence[str]) -> dict[str, Any]:
        """What every section may show."""
        if self.escape_brackets:
            query, passages = escape_brackets(query), [escape_brackets(passage) for passage in passages]
        shared: dict[str, Any] = {"query": query, "num": len(passages), "passages": list(passages)}
        shared["psg_ids"] = f"[{', '.join(f'PASSAGE{rank}' for rank in range(1, len(passages) + 1))}]"
        return shared

    def _question(
        self, shared: Mapping[str, Any], names: Sequence[str], scores: Sequence[float] | None = None
    ) -> list[Message]:
        """The turns of one question, the last one the user's."""
        pairs = zip(names, shared["passages"], strict=False)
        rows = [{**shared, "rank": name, "candidate": text} for name, text in pairs]
        if "score" in self._section("body").names:
            for row, score in zip(rows, self._scores(scores, len(rows)), strict=True):
                row["score"] = f"{score:.3f}"
        turns: list[Message] = []
        prefix = self._section("prefix").fill(shared)
        if self.prefix_assistant:
            turns += [Message("user", prefix), Message("assistant", self._section("prefix_assistant").fill(shared))]
            prefix = ""
        bodies = [self._section("body").fill(row) for row in rows]
        if self.body_assistant:
            acknowledge = self._section("body_assistant")
            for row, body in zip(rows, bodies, strict=True):
                turns += [Message("user", body), Message("assistant", acknowledge.fill(row))]
            bodies = []
        parts = [self._line(part) for part in (prefix, *bodies)]
        return [*turns, Message("user", "".join(parts) + self._section("suffix").fill(shared))]

    def spans(
        self, query: str, passages: Sequence[str], *, labels: Sequence[str] | None = None
    ) -> tuple[tuple[tuple[int, int], ...], int]:
        """Where the passages stand in the last user turn, and where what follows them begins.

        A passage has its identifier with it, and not the white space behind it.

        Args:
            query: The query's text.
            passages: As they were given to `render`.
            labels: Likewise.

        Returns:
            First and past-last character of each passage, and the first character of the suffix that is not white.

        Raises:
            UsageError: The passages are turns of their own, shown by prefix or suffix, or shown with scores.
        """
        shown_elsewhere = "passages" in self._section("prefix").names | self._section("suffix").names
        if self.body_assistant or shown_elsewhere or not self.body:
            raise UsageError(
                f"Prompt {self.name!r} has its passages in several turns, or in its prefix or suffix",
                expected="a 'body' that shows one passage, all of them in one user turn",
                remedy="Use --prompt icr_qa",
            )
        if "score" in self._section("body").names:
            raise UsageError(
                f"Prompt {self.name!r} shows first-stage scores", expected="a prompt without a placeholder for 'score'"
            )
        names = labels if labels is not None else [str(at) for at in range(1, len(passages) + 1)]
        shared = self._shared(query, passages)
        at = 0 if self.prefix_assistant else len(self._line(self._section("prefix").fill(shared)))
        found = []
        for name, text in zip(names, shared["passages"], strict=True):
            body = self._line(self._section("body").fill({**shared, "rank": name, "candidate": text, "score": ""}))
            found.append((at, at + len(body.rstrip())))
            at += len(body)
        suffix = self._section("suffix").fill(shared)
        return tuple(found), at + len(suffix) - len(suffix.lstrip())

    def _line(self, text: str) -> str:
        return f"{text}\n" if self.method in ("listwise", "pointwise") and text and not text.endswith("\n") else text

    def _scores(self, scores: Sequence[float] | None, count: int) -> Sequence[float]:
        if scores is None or len(scores) != count:
            raise DataError(
                f"Prompt {self.name!r} shows scores, and {'none' if scores is None else len(scores)} came with "
                f"{count} passages",
                expected="one score a passage",
                remedy="Use a prompt without a placeholder for 'score'",
            )
        return scores

    def _section(self, key: str) -> Section:
        return compile_section(getattr(self, key), self.syntax)

    def _names(self, key: str) -> frozenset[str]:
        try:
            names = self._section(key).names
        except DataError as error:
            raise DataError(
                f"Section {key!r} of prompt {self.name!r}: {error.found}", expected=error.expected, remedy=error.remedy
            ) from error
        allowed = [name for name in PLACEHOLDERS[key] if name != "passages" or self.syntax == "jinja"]
        for name in sorted(names):
            if name not in allowed:
                raise UnknownNameError(f"placeholder in section {key!r} of prompt {self.name!r}:", name, allowed)
        return names

    def _check_turns(self) -> None:
        if self.prefix_assistant and not self.prefix:
            raise DataError(f"Prompt {self.name!r} has 'prefix_assistant' without 'prefix'", expected="both or none")
        if self.body_assistant and self.prefix and not self.prefix_assistant:
            raise DataError(
                f"Prompt {self.name!r} has 'prefix' and 'body_assistant' without 'prefix_assistant'",
                expected="turns that alternate",
                remedy="Add 'prefix_assistant', or leave 'prefix' out",
            )
        if self.body_assistant and not (self.suffix and self.body):
            raise DataError(
                f"Prompt {self.name!r} has 'body_assistant' without {'suffix' if self.body else 'body'!r}",
                expected="both, since the last turn must be the user's",
            )

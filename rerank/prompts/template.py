"""Prompt templates: text with placeholders, in brace or Jinja syntax, and their rendering as chats.

Queries and passages are only inserted as values and never parsed as templates, so braces in them have no effect.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Literal, get_args

from rerank.errors import DataError, UnknownNameError, ensure
from rerank.io.text_files import replace_lone_surrogates
from rerank.prompts.base import PICTURE, Message, RenderedPrompt
from rerank.prompts.passages import PromptEscaping, collapse_whitespace

#: What the expressions of a Jinja template may raise, apart from the errors of Jinja.
TEMPLATE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
#: Maximum number of iterations of loops and of calls while a section is rendered. A prompt with 1,000 passages and a
#: loop over them needs 1,000; loops in branches that only some queries reach have to end, too.
_MAX_STEPS = 100_000
#: Maximum size of a product: the length of a text, or the number of bits of an integer.
_MAX_PRODUCT = 1 << 20
#: Variable with the steps that are left, whose name no template can write.
_STEPS = "steps!"

Syntax = Literal["braces", "jinja"]
PromptMethod = Literal["listwise", "singleturn_listwise", "multiturn_listwise", "pointwise"]
METHODS: tuple[PromptMethod, ...] = get_args(PromptMethod)

_EVERYWHERE = ("query", "num", "instruction")
#: Mapping from each section to the placeholders it may contain. ``passages`` is a list and therefore only available in
#: Jinja.
PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "system": _EVERYWHERE,
    "prefix": (*_EVERYWHERE, "psg_ids", "passages"),
    "prefix_assistant": _EVERYWHERE,
    "body": (*_EVERYWHERE, "rank", "candidate", "score"),
    "body_assistant": (*_EVERYWHERE, "rank"),
    "suffix": (*_EVERYWHERE, "psg_ids", "passages"),
}


class BraceSection:
    """A section in brace syntax, the subset of Python's format strings that rank_llm uses.

    ``{name}`` is a placeholder, ``{{`` and ``}}`` are braces.
    """

    def __init__(self, text: str) -> None:
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise DataError(
                f"{_shorten(text)} has an unmatched brace ({error})",
                expected="{name} for a placeholder, {{ and }} for braces",
            ) from error
        for _, name, spec, conversion in parsed:
            if name is not None and (not name.isidentifier() or spec or conversion):
                written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise DataError(
                    f"{_shorten(text)} has the placeholder {{{written}}}",
                    expected="only a name in braces",
                    remedy="Double the braces if they are meant as text",
                )
        self.text = text
        #: Names of the placeholders.
        self.names = frozenset(name for _, name, _, _ in parsed if name is not None)

    def fill(self, values: Mapping[str, Any]) -> str:
        return self.text.format_map(values)


class JinjaSection:
    """A section in Jinja syntax, rendered in a sandbox; undefined variables are errors, and HTML is not escaped."""

    def __init__(self, text: str) -> None:
        from jinja2 import TemplateSyntaxError, meta, nodes

        environment = _sandbox()
        try:
            tree = environment.parse(text)
            names = meta.find_undeclared_variables(tree)
            for loop in list(tree.find_all(nodes.For)):
                loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise DataError(
                f"{_shorten(text)} is not a valid Jinja template: line {error.lineno}: {error.message}"
            ) from error
        except (RecursionError, MemoryError, OverflowError, SyntaxError) as error:  # nested too deeply for Python
            raise DataError(
                f"{_shorten(text)} is not a valid Jinja template: {type(error).__name__}", expected="less nesting"
            ) from error
        self.text = text
        #: Names of the variables that the template reads but does not set.
        self.names = frozenset(names) - frozenset(environment.globals)
        self.order = tuple(sorted(self.names))
        self._is_random = any(word in text for word in ("random", "lipsum"))

    def fill(self, values: Mapping[str, Any]) -> str:
        """Render the template, or return the cached text for the same values."""
        used = tuple([values.get(name) for name in self.order])
        if self._is_random or not all(type(value) in (str, int) for value in used):
            return self.render(values)
        return _render_jinja(self, used)

    def render(self, values: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError

        try:
            text = str(self._template.render({**values, _STEPS: iter(range(_MAX_STEPS))}))
        except (TemplateError, *TEMPLATE_ERRORS) as error:
            why = str(error) or type(error).__name__
            raise DataError(f"The Jinja template {_shorten(self.text)} fails: {why}") from error
        if replace_lone_surrogates(text) != text:  # those of queries and passages were replaced before
            raise DataError(f"The Jinja template {_shorten(self.text)} writes half of a surrogate pair")
        return text


def _product_size(operator: str, left: Any, right: Any) -> int:
    """Return the length of a repeated text or list, or an upper bound of the number of bits of a product or power."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    repeated, times = (left, right) if isinstance(right, int) else (right, left)
    return len(repeated) * times if isinstance(times, int) and hasattr(repeated, "__len__") else 0


@lru_cache(maxsize=1)
def _sandbox() -> Any:
    """Return the environment of templates, in which the number of steps and the size of products are limited."""
    from collections.abc import Iterable, Iterator

    from jinja2 import StrictUndefined, TemplateRuntimeError, pass_context
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def step(context: Context) -> None:
        if next(context.resolve(_STEPS), None) is None:
            raise TemplateRuntimeError(f"its loops and calls need more than {_MAX_STEPS:,} steps")

    @pass_context
    def counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            step(context)
            yield value

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            step(context)
            return super().call(context, function, *args, **kwargs)

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if _product_size(operator, left, right) > _MAX_PRODUCT:
                raise TemplateRuntimeError(f"the result of {operator} is larger than {_MAX_PRODUCT:,}")
            return super().call_binop(context, operator, left, right)

    sandbox = Sandbox(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    sandbox.filters["counted"] = counted
    return sandbox


@lru_cache(maxsize=512)
def compile_section(text: str, syntax: Syntax) -> BraceSection | JinjaSection:
    """Compile the text of a section."""
    return BraceSection(text) if syntax == "braces" else JinjaSection(text)


@lru_cache(maxsize=1024)  # rendering takes longer than all other work on a short prompt
def _render_jinja(section: JinjaSection, used: tuple[str | int, ...]) -> str:
    return section.render(dict(zip(section.order, used, strict=True)))


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptExample:
    """A worked example (few-shot) that shows the expected form of the answer."""

    query: str
    passages: tuple[str, ...]
    order: tuple[int, ...]  # the correct answer: identifiers of the passages (from 1), best first

    def __post_init__(self) -> None:
        ensure(
            self.passages and sorted(self.order) == list(range(1, len(self.passages) + 1)),
            f"The order of an example with {len(self.passages)} passages is {list(self.order)}",
            expected="a permutation of the identifiers 1, 2, ...",
            error=DataError,
        )


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A prompt template for a list of passages or for a single passage.

    Without assistant sections, the chat is one user turn (after the system turn): the prefix, the body once per
    passage, and the suffix. With ``prefix_assistant``, the prefix becomes a separate user turn, followed by an
    assistant turn with this text. ``body_assistant`` does the same for every passage, as in RankGPT (Sun et al., EMNLP
    2023).

    Raises `UnknownNameError` if a placeholder is not available in its section, and `DataError` if the prompt does not
    show the passages or the query, the turns do not alternate, or a plain text has several turns.
    """

    name: str  # for messages
    #: ``listwise`` adds missing line breaks after the prefix and every body. ``singleturn_listwise`` and
    #: ``multiturn_listwise`` come from rank_llm and join the sections unchanged. ``pointwise`` shows one passage
    #: without an identifier, and may omit the query for models that generate the query.
    method: PromptMethod = "listwise"
    #: Texts of the sections, which are omitted if empty. ``body`` is the text of one passage.
    system: str = ""
    prefix: str = ""
    prefix_assistant: str = ""
    body: str = ""
    body_assistant: str = ""
    suffix: str = ""
    reply_prefix: str = ""  # the beginning of the reply, which the model continues
    #: Worked examples, rendered like the real query and answered as ``[2] > [1]``.
    examples: tuple[PromptExample, ...] = ()
    syntax: Syntax = "braces"
    #: Whether ``[12]`` in passages and query is replaced by ``(12)``, and ``[B]`` by ``(B)`` if identifiers are
    #: letters. Marks of turns, such as ``<|im_end|>``, are always escaped.
    escape_brackets: bool = True
    pictures: bool = False  # whether documents are shown as pictures, at the positions of their passages
    mixed: bool = False  # whether their texts are shown too, after the pictures; a document may lack one of them
    #: Default of the placeholder ``instruction``, which describes what counts as relevant; a query may have its own.
    instruction: str = ""
    #: Whether the prompt is a text that the model continues after a space, instead of a chat.
    plain_text: bool = False
    #: Whether the prompt is the exact text that the model was trained with, including marks of turns. No line breaks
    #: are added, and no chat template is applied.
    verbatim: bool = False
    #: Whether the sections of a verbatim text are tokenized one by one, as some rerankers were trained: a full stop at
    #: the end of a passage and the line break after it then remain two tokens.
    tokenize_sections: bool = False

    def __post_init__(self) -> None:
        names = {key: section.names for key, section in self._sections.items()}
        for key, found in names.items():
            allowed = [name for name in PLACEHOLDERS[key] if name != "passages" or self.syntax == "jinja"]
            for name in sorted(found):
                if name not in allowed:
                    raise UnknownNameError(f"placeholder in section {key!r} of prompt {self.name!r}:", name, allowed)
        needed = {"candidate"} if self.method == "pointwise" else {"rank", "candidate"}
        turns = (self.system, self.prefix_assistant, self.body_assistant, self.reply_prefix, self.examples)

        def check(holds: object, fault: str, expected: str, remedy: str = "") -> None:
            ensure(holds, f"Prompt {self.name!r} {fault}", expected=expected, remedy=remedy, error=DataError)

        check(
            needed <= names["body"] or "passages" in names["prefix"] | names["suffix"],
            "has a body that shows no passage",
            f"placeholders for {' and '.join(map(repr, sorted(needed, reverse=True)))}",
        )
        shows_query = any("query" in names[key] for key in ("system", "prefix", "body", "suffix"))
        check(shows_query or self.method == "pointwise", "never shows the query", "a placeholder for 'query'")
        fault = "has 'examples' and shows pictures, but examples are texts"
        check(not (self.examples and self.pictures), fault, "only one of them")
        fault = "has 'examples' and shows scores, but examples have no scores"
        check(not (self.examples and "score" in names["body"]), fault, "only one of them")
        check(
            not self.plain_text or (self.method == "pointwise" and not self.pictures and not any(turns)),
            "is plain text and has several turns or passages, or pictures",
            "'method: pointwise' and, of the sections, only 'prefix', 'body' and 'suffix'",
            "Put the beginning of the reply at the end of 'suffix', or remove 'plain_text'",
        )
        check(
            not self.verbatim or not (self.plain_text or any(turns[:3]) or self.examples),
            "is verbatim and has several turns or examples, or is plain text",
            "of the sections, only 'prefix', 'body', 'suffix' and 'reply_prefix'",
            "Write the marks of the turns into these sections, or remove 'verbatim'",
        )
        fault = "has 'tokenize_sections' without 'verbatim'"
        check(self.verbatim or not self.tokenize_sections, fault, "'verbatim' as well")
        fault = "has 'prefix_assistant' without 'prefix'"
        check(self.prefix or not self.prefix_assistant, fault, "'prefix' as well, since the assistant replies to it")
        check(
            not (self.body_assistant and self.prefix and not self.prefix_assistant),
            "has 'prefix' and 'body_assistant' without 'prefix_assistant'",
            "alternating user and assistant turns",
            "Add 'prefix_assistant', or omit 'prefix'",
        )
        fault = f"has 'body_assistant' without {'suffix' if self.body else 'body'!r}"
        expected = "both 'body' and 'suffix', since the last turn must be the user's"
        check(not self.body_assistant or (self.suffix and self.body), fault, expected)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _sections(self) -> dict[str, BraceSection | JinjaSection]:
        compiled = {}
        for key in PLACEHOLDERS:
            try:
                compiled[key] = compile_section(getattr(self, key), self.syntax)
            except DataError as error:
                found = f"Section {key!r} of prompt {self.name!r}: {error.found}"
                raise DataError(found, expected=error.expected, remedy=error.remedy) from error
        return compiled

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all fields except the name."""
        content = {key: value for key, value in asdict(self).items() if key != "name"}
        for later in ("pictures", "mixed", "instruction", "plain_text", "verbatim", "tokenize_sections"):
            if not content[later]:
                del content[later]  # so that older prompts keep their digests
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def takes_instruction(self) -> bool:
        return any("instruction" in section.names for section in self._sections.values())

    @cached_property
    def is_pair(self) -> bool:
        """Whether the text divides into a pair: the prefix shows the query, body and suffix show only the passage."""
        turns = (self.system, self.prefix_assistant, self.body_assistant, self.reply_prefix, self.examples)
        names = {key: section.names for key, section in self._sections.items()}
        shows = "query" in names["prefix"] and "query" not in names["body"] | names["suffix"]
        return self.method == "pointwise" and shows and not (self.pictures or any(turns))

    def render_pairs(self, query: str, passages: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Return the first text of the pairs, and the second text of each, of a prompt that is a pair."""
        shared = self._shared(query, passages, None)
        body, suffix = self._sections["body"], self._sections["suffix"].fill(shared)
        seconds = tuple(body.fill({**shared, "rank": "1", "candidate": text}) + suffix for text in shared["passages"])
        return self._sections["prefix"].fill(shared), seconds

    def with_instruction(self, instruction: str) -> PromptTemplate:
        """Return the prompt with a query's instruction, unchanged if the instruction is empty or has no placeholder."""
        return _with_instruction(self, instruction) if instruction and self.takes_instruction else self

    @cached_property
    def shows_scores(self) -> bool:
        return "score" in self._sections["body"].names

    def render(
        self,
        query: str,
        passages: Sequence[str],
        *,
        scores: Sequence[float] | None = None,
        labels: Sequence[str] | None = None,
    ) -> RenderedPrompt:
        """Render the chat and record the positions where its sections end.

        ``labels`` are the identifiers of the passages, without brackets; 1, 2, ... if None.
        """
        names = list(labels) if labels is not None else [str(number) for number in range(1, len(passages) + 1)]
        shared = self._shared(query, passages, labels)
        turns = [Message("system", self._sections["system"].fill(shared))] if self.system else []
        for example in self.examples:
            enough = [*names, *map(str, range(len(names) + 1, len(example.passages) + 1))]
            turns += self._query_turns(self._shared(example.query, example.passages, labels), enough)[0]
            turns.append(Message("assistant", " > ".join(f"[{enough[number - 1]}]" for number in example.order)))
        query_turns, boundaries = self._query_turns(shared, names, scores)
        if self.plain_text or self.verbatim:
            query_turns = [replace(turn, role="text" if self.plain_text else "verbatim") for turn in query_turns]
        reply = [Message("assistant", self.reply_prefix)] if self.reply_prefix else []
        prompt = RenderedPrompt((*turns, *query_turns, *reply))
        prompt.boundaries = tuple((len(turns) + turn, position) for turn, position in boundaries)
        return prompt

    def escaping(self, labels: Sequence[str] | None = None) -> PromptEscaping:
        """Return the rules for escaping queries and passages, given the identifiers of the passages (None: numbers)."""
        letters = labels is not None and not all(map(str.isdigit, labels))
        return PromptEscaping(brackets=self.escape_brackets, letters=letters)

    def _shared(self, query: str, passages: Sequence[str], labels: Sequence[str] | None) -> dict[str, Any]:
        """Return the values of the placeholders that are available in every section."""
        escape = self.escaping(labels).escape
        shared: dict[str, Any] = {"query": escape(query), "num": len(passages), "passages": list(map(escape, passages))}
        shared["instruction"] = escape(self.instruction)
        shared["psg_ids"] = f"[{', '.join(f'PASSAGE{rank}' for rank in range(1, len(passages) + 1))}]"
        return shared

    def _query_turns(
        self, shared: Mapping[str, Any], names: Sequence[str], scores: Sequence[float] | None = None
    ) -> tuple[list[Message], list[tuple[int, int]]]:
        """Return the turns for a query or a worked example, which end with a user turn, and their boundaries."""
        pairs = zip(names, shared["passages"], strict=False)
        rows = [{**shared, "rank": name, "candidate": text} for name, text in pairs]
        if self.shows_scores:
            if scores is None or len(scores) != len(rows):
                raise DataError(
                    f"Prompt {self.name!r} shows scores, but {len(rows)} passages have "
                    f"{'no' if scores is None else len(scores)} scores",
                    expected="one score per passage",
                    remedy="Use a prompt without a placeholder for 'score'",
                )
            for row, score in zip(rows, scores, strict=True):
                row["score"] = f"{score:.3f}"
        turns: list[Message] = []
        section = self._sections["prefix"]
        prefix = section.fill(shared)
        boundaries = [(0, 0)]
        if "query" in section.names:
            before_query, found, _ = section.fill({**shared, "query": PICTURE}).partition(PICTURE)
            if found and prefix.startswith(before_query):
                boundaries.append((0, len(before_query)))
        if self.prefix_assistant:
            turns += [Message("user", prefix), Message("assistant", self._sections["prefix_assistant"].fill(shared))]
            prefix = ""
        bodies = [self._sections["body"].fill(row) for row in rows]
        if self.body_assistant:
            acknowledge = self._sections["body_assistant"]
            for row, body in zip(rows, bodies, strict=True):
                boundaries.append((len(turns), 0))
                turns += [Message("user", body), Message("assistant", acknowledge.fill(row))]
            bodies = []
        parts = [self._line(part) for part in (prefix, *bodies)]
        suffix = self._sections["suffix"].fill(shared)
        if self.tokenize_sections:
            return [Message("user", text) for text in (*parts, suffix)], []
        boundaries += ((len(turns), end) for end in accumulate(map(len, parts), initial=0))
        turns.append(Message("user", "".join(parts) + suffix))
        return turns, list(dict.fromkeys(boundaries))

    def spans(
        self, query: str, passages: Sequence[str], *, labels: Sequence[str] | None = None
    ) -> tuple[tuple[tuple[int, int], ...], int]:
        """Locate the passages and the suffix in the last user turn.

        The arguments are those of `render`. Returns the start and end (exclusive) of each passage, with its identifier
        and without the whitespace after it, and the start of the suffix without leading whitespace, in characters.
        """
        shown_elsewhere = "passages" in self._sections["prefix"].names | self._sections["suffix"].names
        ensure(
            self.body and not self.body_assistant and not shown_elsewhere,
            f"Prompt {self.name!r} has its passages in several turns, or in its prefix or suffix",
            expected="a 'body' that shows one passage, and all passages in one user turn",
            remedy="Omit --prompt to use the method's own prompt",
        )
        ensure(
            not self.shows_scores,
            f"Prompt {self.name!r} shows first-stage scores",
            expected="a prompt without a placeholder for 'score'",
        )
        names = labels if labels is not None else [str(number) for number in range(1, len(passages) + 1)]
        shared = self._shared(query, passages, labels)
        position = 0 if self.prefix_assistant else len(self._line(self._sections["prefix"].fill(shared)))
        spans = []
        for name, text in zip(names, shared["passages"], strict=True):
            body = self._line(self._sections["body"].fill({**shared, "rank": name, "candidate": text, "score": ""}))
            spans.append((position, position + len(body.rstrip())))
            position += len(body)
        suffix = self._sections["suffix"].fill(shared)
        return tuple(spans), position + len(suffix) - len(suffix.lstrip())

    def _line(self, text: str) -> str:
        is_completed = self.method in ("listwise", "pointwise") and not self.verbatim
        return f"{text}\n" if is_completed and text and not text.endswith("\n") else text


@lru_cache(maxsize=256)
def _with_instruction(template: PromptTemplate, instruction: str) -> PromptTemplate:
    return replace(template, instruction=collapse_whitespace(instruction))

"""Sections of a prompt: text with placeholders, in brace or Jinja syntax.

Queries and passages are only inserted as values and never parsed as templates, so braces in them have no effect.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rerank.errors import DataError
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Syntax = Literal["braces", "jinja"]

#: Cache of rendered Jinja sections. The key is the source of a section followed by its values. Rendering takes longer
#: than all other work on a short prompt.
_filled: BoundedMemo[tuple[Any, ...], str] = BoundedMemo(
    8 << 20, lambda key, text: ENTRY_BYTES + sum(map(sys.getsizeof, key)) + sys.getsizeof(text)
)


class Section(Protocol):
    """Protocol of compiled sections of a prompt."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the placeholders in the section."""

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the text with values inserted for its placeholders; ``values`` has a value for each of `names`."""


@lru_cache(maxsize=512)
def compile_prompt_section(text: str, syntax: Syntax) -> Section:
    """Compile the text of a section."""
    return BraceSection.compile(text) if syntax == "braces" else JinjaSection.compile(text)


@dataclass(frozen=True, slots=True)
class BraceSection:
    """A section in brace syntax, the subset of Python's format strings that rank_llm uses.

    ``{name}`` is a placeholder, ``{{`` and ``}}`` are braces.

    Attributes:
        text: The source, a format string.
        names: Names of the placeholders.
    """

    text: str
    names: frozenset[str]

    @classmethod
    def compile(cls, text: str) -> BraceSection:
        """Split the text at its placeholders."""
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise DataError(
                f"{_shorten_prompt_section(text)} has an unmatched brace ({error})",
                expected="{name} for a placeholder, {{ and }} for braces",
            ) from error
        for _, name, spec, conversion in parsed:
            if name is not None and (not name.isidentifier() or spec or conversion):
                written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise DataError(
                    f"{_shorten_prompt_section(text)} has the placeholder {{{written}}}",
                    expected="only a name in braces",
                    remedy="Double the braces if they are meant as text",
                )
        return cls(text, frozenset(name for _, name, _, _ in parsed if name is not None))

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the text with the values inserted unchanged."""
        return self.text.format_map(values)


@dataclass(frozen=True, slots=True)
class JinjaSection:
    """A section in Jinja syntax, rendered in a sandbox; undefined variables are errors, and HTML is not escaped.

    Attributes:
        text: The source of the template.
        names: Names of the variables that the template reads but does not set.
        template: The compiled template.
        order: The names in ``names``, sorted.
        is_random: Whether the template may produce different texts for the same values.
    """

    text: str
    names: frozenset[str]
    template: Any
    order: tuple[str, ...]
    is_random: bool

    @classmethod
    def compile(cls, text: str) -> JinjaSection:
        """Compile a template."""
        from jinja2 import TemplateSyntaxError, meta

        environment = _prompt_environment()
        try:
            names = meta.find_undeclared_variables(environment.parse(text))
            template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise DataError(
                f"{_shorten_prompt_section(text)} is not a valid Jinja template: line {error.lineno}: {error.message}"
            ) from error
        except (RecursionError, MemoryError, OverflowError, SyntaxError) as error:  # nested too deeply for Python
            raise DataError(
                f"{_shorten_prompt_section(text)} is not a valid Jinja template: {type(error).__name__}",
                expected="less nesting",
            ) from error
        own = frozenset(names) - frozenset(environment.globals)
        return cls(text, own, template, tuple(sorted(own)), any(word in text for word in ("random", "lipsum")))

    def fill(self, values: Mapping[str, Any]) -> str:
        """Render the template, or return the cached text for the same values."""
        used = tuple([values.get(name) for name in self.order])
        if self.is_random or not all(type(value) in (str, int) for value in used):
            return self._render(values)
        text = _filled.get((self.text, *used))
        if text is None:
            text = self._render(values)
            _filled.put((self.text, *used), text)
        return text

    def _render(self, values: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError

        ordinary = (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError)
        try:
            return str(self.template.render(values))
        except (*ordinary, RecursionError, MemoryError) as error:
            why = str(error) or type(error).__name__
            raise DataError(f"The Jinja template {_shorten_prompt_section(self.text)} fails: {why}") from error


@lru_cache(maxsize=1)
def _prompt_environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def _shorten_prompt_section(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")

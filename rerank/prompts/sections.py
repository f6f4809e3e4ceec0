"""One section of a prompt: text with holes, in braces or in Jinja. Knows neither files nor which holes make sense.

Text from users only ever fills holes; it is never read as a template, so braces in it are braces.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rerank.errors import DataError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Syntax = Literal["braces", "jinja"]


class Section(Protocol):
    """A compiled section."""

    @property
    def names(self) -> frozenset[str]:
        """The holes that it has."""

    def fill(self, values: Mapping[str, Any]) -> str:
        """The section's text with its holes filled; ``values`` holds all of `names`."""


@lru_cache(maxsize=512)
def compile_section(text: str, syntax: Syntax) -> Section:
    """Find the holes of a section.

    Raises:
        DataError: The text is no valid template of this syntax.
    """
    return Braces.compile(text) if syntax == "braces" else Jinja.compile(text)


@dataclass(frozen=True, slots=True)
class Braces:
    """``{name}`` is a hole, ``{{`` and ``}}`` are braces: the subset of Python's format strings that rank_llm uses.

    Attributes:
        parts: Pairs of a literal text and the hole behind it (None: no hole).
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def compile(cls, text: str) -> Braces:
        """Split at the holes.

        Raises:
            DataError: A single brace, or a hole with anything but a name in it.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise DataError(
                f"{_shown(text)} has a brace that opens or closes nothing ({error})",
                expected="{name} for a placeholder, {{ and }} for braces",
            ) from error
        for _, name, spec, conversion in parsed:
            if name is not None and (not name.isidentifier() or spec or conversion):
                written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise DataError(
                    f"{_shown(text)} has the placeholder {{{written}}}",
                    expected="a bare name in braces",
                    remedy="Double the braces if they are meant as text",
                )
        return cls(tuple((literal, name) for literal, name, _, _ in parsed))

    @property
    def names(self) -> frozenset[str]:
        """The holes."""
        return frozenset(name for _, name in self.parts if name is not None)

    def fill(self, values: Mapping[str, Any]) -> str:
        """Put the values in, as they are."""
        return "".join(literal + ("" if name is None else str(values[name])) for literal, name in self.parts)


@dataclass(frozen=True, slots=True)
class Jinja:
    """A Jinja template in a sandbox: no attribute that leads out of it, no undefined variable, no escaping for HTML.

    Attributes:
        text: The template.
        names: The variables that it reads and does not set.
        template: The compiled template.
    """

    text: str
    names: frozenset[str]
    template: Any

    @classmethod
    def compile(cls, text: str) -> Jinja:
        """Parse and compile.

        Raises:
            DataError: Jinja cannot read it.
        """
        from jinja2 import TemplateSyntaxError, meta

        environment = _environment()
        try:
            names = meta.find_undeclared_variables(environment.parse(text))
            template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise DataError(f"{_shown(text)} is no Jinja template: line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, OverflowError, SyntaxError) as error:  # nested deeper than Python goes
            raise DataError(
                f"{_shown(text)} is no Jinja template: {type(error).__name__}", expected="fewer levels, one in another"
            ) from error
        return cls(text, frozenset(names) - frozenset(environment.globals), template)

    def fill(self, values: Mapping[str, Any]) -> str:
        """Render.

        Raises:
            DataError: The template fails, or tries what the sandbox forbids.
        """
        from jinja2 import TemplateError

        ordinary = (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError)
        try:
            return str(self.template.render(values))
        except (*ordinary, RecursionError, MemoryError) as error:
            why = str(error) or type(error).__name__
            raise DataError(f"{_shown(self.text)} fails as a Jinja template: {why}") from error


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")

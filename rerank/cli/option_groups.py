"""Option groups: dataclasses whose fields are options of a command. Groups keep parameter lists of commands short.

Typer reads the annotations of the fields: ``Annotated[int | None, typer.Option(help="...")]``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def expand_option_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command in which each option group of ``function`` is replaced by one parameter per field."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}

    @functools.wraps(function)
    def command(**values: Any) -> None:
        options = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **options)

    expanded = [new for parameter in parameters for new in _expand_option_group(parameter)]
    command.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in expanded}
    return command


def _expand_option_group(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return one parameter per field if the parameter is an option group; otherwise return the parameter itself."""
    group = parameter.annotation
    if not is_dataclass(group):
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]

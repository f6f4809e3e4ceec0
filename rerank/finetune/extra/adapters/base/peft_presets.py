"""Adapters that are named configurations of peft: one class per table of ``peft_presets.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import NamedPeftAdapter
from rerank.registry import plugin_class_name


@dataclass(frozen=True, kw_only=True)
class PeftPreset(NamedPeftAdapter):
    """Base class of the presets. Each subclass is one preset and has the options of this preset as fields.

    Attributes:
        preset: Table that defines the preset: its configuration of peft, its options, and fixed values of fields.
    """

    preset: ClassVar[Mapping[str, Any]] = {}
    differs: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        for name, option in self.preset["options"].items():
            value = self._value_of(name)
            if not option.get("at_least", value) <= value < option.get("below", float("inf")):
                limit = f" and below {option['below']}" if "below" in option else ""
                raise UsageError(f"Option {name} is {value}", expected=f"at least {option['at_least']}{limit}")

    @property
    def configuration(self) -> str:
        """Type of the configuration of peft that the preset uses, such as ``lokr``."""
        return str(self.preset["configuration"])

    def peft_options(self) -> Mapping[str, Any]:
        """Return peft's fields with their values: the options of the preset, and the values that it fixes."""
        options = self.preset["options"].items()
        fixed: Mapping[str, Any] = self.preset.get("fixed", {})
        return {**{option["field"]: self._value_of(name) for name, option in options}, **fixed}

    def _value_of(self, name: str) -> Any:
        value, factor = getattr(self, name), self.preset["options"][name].get("times_r")
        return factor * getattr(self, "r") if value is None else value  # noqa: B009


@cache
def peft_presets() -> Mapping[str, type[PeftPreset]]:
    """Return a mapping from the name of each preset to its class."""
    tables = tomllib.loads(files(__package__).joinpath("peft_presets.toml").read_text(encoding="utf-8"))
    return {name: _make_preset_class(name, table) for name, table in tables.items()}


def _make_preset_class(name: str, table: Mapping[str, Any]) -> type[PeftPreset]:
    options: list[tuple[str, Any, Any]] = []
    for option, declared in table["options"].items():
        default = declared.get("default")
        options.append((option, int | None if default is None else type(default), field(default=default)))
    attributes = {
        "__module__": __name__,
        "__doc__": f"{table['summary']}; `peft` with the configuration {table['configuration']}.",
        "preset": table,
        "paper": table["paper"],
        "summary": table["summary"],
        "differs": table.get("differs", ""),
        "shape": table["trains"],
    }
    made = make_dataclass(
        plugin_class_name(name), options, bases=(PeftPreset,), namespace=attributes, frozen=True, kw_only=True
    )
    return made

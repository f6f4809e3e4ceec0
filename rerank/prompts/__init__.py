"""How the question is put to a model: templates in YAML, their rendering, their token budget.

A shipped prompt is found by name, any other by the path of its file.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from rerank.errors import UnknownNameError
from rerank.prompts.template import PromptTemplate

__all__ = ["PromptTemplate", "load_prompt", "prompt_names", "prompt_text"]


def prompt_names() -> list[str]:
    """The shipped prompts, sorted."""
    found = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def prompt_text(name_or_path: str | Path) -> str:
    """The YAML of a prompt.

    Args:
        name_or_path: A shipped prompt's name, or a path: anything that ends in .yaml or .yml, holds a slash or exists.

    Raises:
        UnknownNameError: No such prompt; the message suggests the nearest.
        MissingResourceError: No such file.
        DataError: Not a text file.
    """
    name = str(name_or_path)
    if name in prompt_names():
        return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    if not (name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name or (name and Path(name).exists())):
        raise UnknownNameError("prompt", name, prompt_names())
    from rerank.io.text_files import open_text

    with open_text(name_or_path) as file:
        return file.read()


def load_prompt(name_or_path: str | Path) -> PromptTemplate:
    """Read a prompt.

    Args:
        name_or_path: As for `prompt_text`.

    Raises:
        UnknownNameError: No such prompt, or an unknown key or placeholder in it.
        MissingResourceError: No such file.
        DataError: The file is no prompt.
    """
    from rerank.prompts.loading import template_from_yaml

    return template_from_yaml(prompt_text(name_or_path), Path(name_or_path).stem)

"""Prompt templates in YAML, their rendering as chats, and the token budget.

Built-in prompts are loaded by name, other prompts by the path of their file.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from rerank.errors import DataError, UnknownNameError
from rerank.io.paths import named_path_errors
from rerank.prompts.template import PromptTemplate

__all__ = ["PromptTemplate", "load_prompt", "prompt_names", "prompt_text"]


def prompt_names() -> list[str]:
    """Return the names of the built-in prompts, sorted."""
    names = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@named_path_errors()
def prompt_text(name_or_path: str | Path) -> str:
    """Return the YAML text of a prompt.

    Args:
        name_or_path: Name of a built-in prompt, or a path: a string that ends with .yaml or .yml, contains a slash or
            is an existing file.

    Raises:
        UnknownNameError: The name is unknown; the message suggests similar ones.
        MissingResourceError: The file does not exist.
        DataError: The file is not a text file.
    """
    name = str(name_or_path)
    if name in prompt_names():
        return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    if not (name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name or (name and Path(name).exists())):
        raise UnknownNameError("prompt", name, prompt_names())
    from rerank.io.text_files import open_text_file

    with open_text_file(name_or_path) as file:
        return file.read()


def load_prompt(name_or_path: str | Path) -> PromptTemplate:
    """Load a prompt template.

    Args:
        name_or_path: Name of a built-in prompt, or the path of a file, as for `prompt_text`.

    Raises:
        UnknownNameError: The name, or a key or placeholder in the prompt, is unknown.
        MissingResourceError: The file does not exist.
        DataError: The file is not a valid prompt, or the prompt is not rendered within 5 seconds and 1 GB of memory.
    """
    from rerank.prompts.loading import prompt_template_from_yaml

    text, name = prompt_text(name_or_path), Path(name_or_path).stem
    if str(name_or_path) not in prompt_names():
        _check_prompt_ends(text, name)
    return prompt_template_from_yaml(text, name)


def _check_prompt_ends(text: str, name: str) -> None:
    """Check that a prompt from a file is rendered within limits of time and memory: a loop in it may have no end."""
    from rerank.io.forks import ends_in_child_process
    from rerank.prompts.loading import prompt_template_from_yaml

    def render() -> None:
        template = prompt_template_from_yaml(text, name)
        template.render("query", ["passage"] * 20, scores=[0.0] * 20 if template.shows_scores else None)

    if not ends_in_child_process(render):
        raise DataError(
            f"Prompt {name!r} was not rendered within 5 seconds and 1 GB of memory",
            expected="a template whose loops end",
            remedy="Check the loops and the aliases in the file",
        )

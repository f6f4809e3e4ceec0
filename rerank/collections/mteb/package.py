"""mteb itself: imported, asked for tasks by name, and for their data. Knows no models and no scores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from typing import Any

from rerank.errors import MissingPrerequisiteError, MissingResourceError, UnknownNameError, UsageError

#: ISO 639-3 codes of written standards, by the code of the language that first stages know.
_STANDARDS = {
    **{"cmn": "zh", "arb": "ar", "nob": "no", "nno": "no", "swh": "sw", "pes": "fa", "npi": "ne", "ekk": "et"},
    **{"zsm": "ms", "lvs": "lv", "khk": "mn", "als": "sq", "azj": "az", "uzn": "uz", "ydd": "yi", "ory": "or"},
}


def package() -> Any:
    """Import mteb.

    Raises:
        MissingPrerequisiteError: It is not installed, or is older than 2.
    """
    try:
        import mteb
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"This needs mteb, which does not import ({error})", remedy="Run: pip install 'listrank[mteb]'"
        ) from error
    if not hasattr(mteb, "evaluate"):
        raise MissingPrerequisiteError(
            f"mteb {getattr(mteb, '__version__', '')} is installed",
            expected="2.0 or newer",
            remedy="Run: pip install 'listrank[mteb]'",
        )
    return mteb


def named(name: str) -> Any:
    """A task of mteb by its name, nothing loaded yet.

    Raises:
        UnknownNameError: There is none; the message suggests the nearest.
        UsageError: It is no retrieval or reranking of texts.
    """
    mteb = package()
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        kinds = ["Retrieval", "Reranking", "InstructionReranking"]
        known = [task.metadata.name for task in mteb.get_tasks(task_types=kinds)]
        raise UnknownNameError("task of mteb", name, known) from error
    return checked(task)


def checked(task: Any) -> Any:
    """The task itself, if it ranks texts.

    Raises:
        UsageError: It does something else.
    """
    if not hasattr(task, "convert_to_reranking"):
        raise UsageError(
            f"{task.metadata.name} is a task of the type {task.metadata.type}", expected="Retrieval or Reranking"
        )
    if list(task.metadata.modalities) != ["text"]:
        raise UsageError(f"{task.metadata.name} is about {', '.join(task.metadata.modalities)}", expected="text alone")
    return task


def language_of(metadata: Any, subset: str) -> str:
    """ISO 639-1 code of a subset's texts: ``mul`` if they are in several, ``und`` if theirs has no such code."""
    scripts = metadata.hf_subsets_to_langscripts.get(subset) or metadata.bcp47_codes
    codes = {code.split("-")[0] for code in scripts}
    if len(codes) != 1:
        return "mul"
    (code,) = codes
    return _STANDARDS.get(code) or _two_letters().get(code, "und")


def _two_letters() -> Mapping[str, str]:
    """ISO 639-3 -> 639-1, from a table that mteb ships."""
    from importlib.resources import files

    table = files("mteb.languages").joinpath("iso_639_1_to_3.json").read_text(encoding="utf-8")
    return {three: two for two, three in json.loads(table).items()}


def load(task: Any) -> Any:
    """Load a task's data, unless it is there; return the task.

    Raises:
        MissingResourceError: It cannot be downloaded or read.
    """
    if not task.data_loaded:
        with reading(task.metadata.name):
            task.load_data()
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    return task


@contextlib.contextmanager
def reading(name: str) -> Generator[None]:
    """Turn what fails where a task's data is downloaded or read into our error; there is no class for all of it."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip()[:300] or type(error).__name__
        raise MissingResourceError(
            f"The data of mteb's task {name!r} cannot be read: {said}",
            remedy="Check the network and the access to its data set, or put it where Hugging Face's datasets looks",
        ) from error

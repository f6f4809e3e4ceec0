"""Functions that import the package mteb, find its tasks by name, and load their data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from typing import Any

from rerank.errors import MissingPrerequisiteError, MissingResourceError, UnknownNameError, UsageError

#: Mapping from the ISO 639-3 code of a standard variety, such as Mandarin, to the code that first stages expect.
_STANDARDS = {
    **{"cmn": "zh", "arb": "ar", "nob": "no", "nno": "no", "swh": "sw", "pes": "fa", "npi": "ne", "ekk": "et"},
    **{"zsm": "ms", "lvs": "lv", "khk": "mn", "als": "sq", "azj": "az", "uzn": "uz", "ydd": "yi", "ory": "or"},
}


def import_mteb() -> Any:
    """Import mteb, check its version, and return the module."""
    try:
        import mteb
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The package mteb is needed, but cannot be imported ({error})",
            remedy="Run: pip install 'listrank[mteb]'",
        ) from error
    if not hasattr(mteb, "evaluate"):
        raise MissingPrerequisiteError(
            f"The installed version of mteb is {getattr(mteb, '__version__', '')}",
            expected="2.0 or newer",
            remedy="Run: pip install 'listrank[mteb]'",
        )
    return mteb


def find_mteb_collection_task(name: str) -> Any:
    """Return a task of mteb by name, without loading its data."""
    mteb = import_mteb()
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        kinds = ["Retrieval", "Reranking", "InstructionReranking"]
        known = [task.metadata.name for task in mteb.get_tasks(task_types=kinds)]
        raise UnknownNameError("task of mteb", name, known) from error
    return check_mteb_collection_task(task)


def check_mteb_collection_task(task: Any) -> Any:
    """Return the task after checking that it ranks texts."""
    if not hasattr(task, "convert_to_reranking"):
        raise UsageError(
            f"{task.metadata.name} is a task of the type {task.metadata.type}", expected="Retrieval or Reranking"
        )
    if list(task.metadata.modalities) != ["text"]:
        raise UsageError(
            f"{task.metadata.name} is a task with the modalities {', '.join(task.metadata.modalities)}",
            expected="only text",
        )
    return task


def language_of_mteb_collection(metadata: Any, subset: str) -> str:
    """Return the ISO 639-1 code of a subset's language; ``mul`` for several languages, ``und`` if there is none."""
    scripts = metadata.hf_subsets_to_langscripts.get(subset) or metadata.bcp47_codes
    codes = {code.split("-")[0] for code in scripts}
    if len(codes) != 1:
        return "mul"
    (code,) = codes
    return _STANDARDS.get(code) or _collection_language_codes().get(code, "und")


def _collection_language_codes() -> Mapping[str, str]:
    """Return a mapping from ISO 639-3 to ISO 639-1 codes, from a table that is shipped with mteb."""
    from importlib.resources import files

    table = files("mteb.languages").joinpath("iso_639_1_to_3.json").read_text(encoding="utf-8")
    return {three: two for two, three in json.loads(table).items()}


def load_mteb_collection_task(task: Any) -> Any:
    """Load a task's data unless they are already loaded, and return the task."""
    if not task.data_loaded:
        with named_mteb_collection_errors(task.metadata.name):
            task.load_data()
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    return task


@contextlib.contextmanager
def named_mteb_collection_errors(name: str) -> Generator[None]:
    """Raise a `MissingResourceError` if a task's data cannot be downloaded or read in the block."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip()[:300] or type(error).__name__
        raise MissingResourceError(
            f"The data of mteb's task {name!r} cannot be read: {reason}",
            remedy="Check the network and your access to the data set, or put the data into Hugging Face's cache",
        ) from error

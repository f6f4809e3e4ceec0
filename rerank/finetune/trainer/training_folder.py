"""The folder of a training: recipe, checkpoints and result."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from rerank.errors import DataError, RerankError, StorageError, UsageError, ensure
from rerank.finetune.labels.hub import pin_hub_datasets
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer import processes
from rerank.io.file_hashes import file_hash
from rerank.io.file_systems import check_only_files
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import replace_text_file

#: Names of files and folders in the training folder.
METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
_RECIPE, _RESULT, _DATASETS = "recipe.json", "result.json", "datasets.json"
_CHECKSUMS = "checksums.json"
#: Parts of the messages by which torch and safetensors report a full or failing disk.
_DISK = ("write", "No space", "I/O", os.strerror(errno.ENOSPC))


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """The folder in which a training stores its recipe and its result; only the main process writes."""

    path: Path
    recipe: Recipe

    def is_complete(self, *, resume: bool) -> bool:
        """Return whether the folder contains the result of this training, so that nothing remains to be done."""
        path, result = self.path / _RECIPE, self.path / _RESULT
        check_only_files(self.path)  # torch and transformers would write through links
        if not processes.is_main():
            return result.is_file()
        if not path.is_file():
            others = [entry for entry in self.path.iterdir() if entry.name[0] != "."] if self.path.is_dir() else []
            ensure(
                {entry.name for entry in others} <= {_DATASETS},
                f"{str(self.path)!r} exists and is not the folder of a training",
                expected="a new or empty folder",
                remedy="Choose another --out",
            )
            return False
        # Both are parsed as recipes, so that a file written before a field was added compares equal.
        before = Recipe.make(read_json_object(path, "recipe"))
        now = Recipe.make(json.loads(self.recipe.model_dump_json()))
        if changed := [name for name in Recipe.model_fields if getattr(before, name) != getattr(now, name)]:
            raise UsageError(
                f"{str(self.path)!r} contains a training with another recipe, which differs in {', '.join(changed)}",
                expected="an empty folder, or the folder of a training with the same recipe",
                remedy="Choose another --out",
            )
        ensure(
            resume,
            f"{str(self.path)!r} already contains this training",
            expected="an empty folder",
            remedy="Continue it with --resume, or choose another --out",
        )
        if result.is_file() and (damage := find_damage(self.path)):
            raise DataError(
                f"The training in {str(self.path)!r} has finished, but {damage}",
                expected="the files that it wrote",
                remedy=f"Restore the file, or remove {_RESULT} and {_CHECKSUMS}, and pass --resume to finish again",
            )
        return result.is_file()

    def write_recipe(self, datasets: Mapping[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if processes.is_main() and not (self.path / _RECIPE).is_file():
            if datasets:
                self._write(_DATASETS, json.dumps(datasets, indent=1))
            self._write(_RECIPE, self.recipe.model_dump_json(indent=1))

    def _write(self, name: str, text: str) -> None:
        with replace_text_file(self.path / name) as file:
            file.write(text + "\n")

    def pin_datasets(self) -> dict[str, str]:
        """Map the selector of each hub data set in the recipe to the same selector with a fixed commit.

        A resumed training keeps the commits with which it started.
        """
        if (path := self.path / _DATASETS).is_file():
            return read_json_object(path, "data sets of the training")
        table = self.recipe.validation
        return pin_hub_datasets([*self.recipe.data.lists, *(table.lists if table else ())])

    def read_result(self) -> dict[str, Any]:
        return read_json_object(self.path / _RESULT, "result of the training")

    def write_result(self, outcome: Mapping[str, Any]) -> None:
        """Store the result, which marks the training as complete."""
        self._write(_RESULT, json.dumps(outcome, indent=1))
        write_checksums(self.path)


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of all files in a folder, except of its model card, which users edit."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    hashes = {name: file_hash(folder / name) for name in names if name not in (_CHECKSUMS, "README.md")}
    with replace_text_file(folder / _CHECKSUMS) as file:
        file.write(json.dumps({"sha256": hashes}, indent=1) + "\n")


def find_damage(folder: Path) -> str:
    """Describe a file that differs from its checksum; empty if none does, or if an older version wrote the folder."""
    if not (folder / _CHECKSUMS).is_file():
        return ""
    try:
        hashes = read_json_object(folder / _CHECKSUMS, "list of checksums")["sha256"]
        changed = [name for name, sha in hashes.items() if file_hash(folder / name) != sha]
    except (RerankError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"a file cannot be read: {error}"
    return f"{changed[0]} was changed after it was written" if changed else ""


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training, the oldest first."""
    paths = (folder / CHECKPOINTS).glob("checkpoint-*") if folder.is_dir() else ()
    return sorted((path for path in paths if path.name[11:].isdecimal()), key=lambda path: int(path.name[11:]))


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, and warn of damaged ones; None if there are no checkpoints.

    Raises:
        DataError: All checkpoints are damaged.
    """
    damaged: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        if not (damage := find_damage(path)):
            if damaged:
                warnings.warn(f"{damaged[0]}; the earlier {path.name} is used", stacklevel=2)
            return path
        damaged.append(f"{path} is damaged: {damage}")
    if damaged:
        raise DataError(
            f"No checkpoint is intact: {damaged[0]}",
            expected="at least one undamaged checkpoint",
            remedy="Restore one, or remove the folder checkpoints and pass --resume to start from the beginning",
        )
    return None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert errors of a full or failing disk into a `StorageError`."""
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # torch and safetensors report a failing disk with their own error classes, so the message is examined.
        if not isinstance(error, OSError) and not any(word in str(error) for word in _DISK):
            raise
        raise StorageError(
            f"Files of the training cannot be written: {error}",
            remedy="Free disk space, then continue with --resume; earlier checkpoints are intact",
        ) from error

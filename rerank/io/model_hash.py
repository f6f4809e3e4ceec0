"""SHA-256 hashes of local model folders, computed from the files that affect the model's output.

Configuration fields that only record which program wrote a file are ignored. The hashes of large files are cached until
the files change (`rerank.io.file_hashes`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from rerank.errors import DataError
from rerank.io.file_hashes import file_hash

#: The file in which sentence-transformers lists the modules of a model.
MODULES = "modules.json"
_ROUTES = "router_config.json"
_BOOKKEEPING = {"transformers_version", "_name_or_path", "_from_model_config", "is_local", "local_files_only"}
_READ = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def hash_file_contents_of_model(folder: Path) -> str:
    """Return the hex SHA-256 of the names and contents of a model's weights, settings, chat template and tokenizer.

    This package's own files (``rerank-*.json``) and sub-folders, such as training checkpoints, are ignored.
    """
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ or path.name.startswith("rerank-"):
            continue
        stat = path.stat()
        total.update(f"{path.name}\0{_hash_file_or_json_content(path, stat.st_mtime_ns, stat.st_size)}\n".encode())
    return total.hexdigest()


def hash_encoder_folder(folder: Path) -> str:
    """Return the hex SHA-256 of a model's folder and the sub-folders of its modules, such as pooling."""
    lines = [f"{name}\0{hash_file_contents_of_model(folder / name)}\n" for name in module_folders(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def module_folders(folder: Path) -> list[str]:
    """Return ``""`` and the paths of the sub-folders with modules of a sentence-transformers model, sorted."""
    return [name for name in listed_modules(folder) if (folder / name).is_dir()]


def listed_modules(folder: Path) -> list[str]:
    """Return ``""`` and the paths that the module lists of a sentence-transformers model name, sorted.

    Paths outside the folder are ignored.

    Raises:
        DataError: A list of modules is malformed.
    """
    names = {"", *_listed_names(folder / MODULES, lambda modules: [module.get("path", "") for module in modules])}
    # A router has further modules, one per route, each in its own folder.
    for name in sorted(names):
        parts = _listed_names(folder / name / _ROUTES, lambda routes: routes["types"])
        names |= {f"{name}/{part}".strip("/") for part in parts}
    return sorted(name for name in names if not {"..", ""} & set(Path(name).parts) and not Path(name).is_absolute())


def _listed_names(file: Path, names: Callable[[Any], Iterable[Any]]) -> list[str]:
    try:
        return [str(name) for name in names(json.loads(file.read_text("utf-8")))] if file.is_file() else []
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{str(file)!r} has a malformed list of modules ({error!r})", expected="a file of sentence-transformers"
        ) from error


@lru_cache(maxsize=256)
def _hash_file_or_json_content(path: Path, _mtime: int, _size: int) -> str:
    """Return the hash of a file; fields of a JSON file that do not affect the model are ignored.

    The file's modification time and size are part of the cache key, so a changed file is hashed again.
    """
    if path.suffix == ".json":
        content = _json_file_without_bookkeeping(path)
        if content is not None:
            return hashlib.sha256(content).hexdigest()
    return file_hash(path)


def _json_file_without_bookkeeping(path: Path) -> bytes | None:
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # the loader reports malformed files
        return None
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in _BOOKKEEPING}
    return json.dumps(content, sort_keys=True).encode()

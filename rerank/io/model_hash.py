"""What tells one local model folder from another: SHA-256 over the files that decide an answer.

Knows files, not models. Fields that only say which program wrote a file do not count.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

_BOOKKEEPING = {"transformers_version", "_name_or_path", "_from_model_config", "is_local", "local_files_only"}
_READ = {".safetensors", ".json", ".jinja", ".model", ".txt"}
_CHUNK = 1 << 20


def folder_hash(folder: Path) -> str:
    """Hex SHA-256 over names and contents of a folder's weights, settings, chat template and tokenizer files.

    Our own marker (``rerank-*.json``) and training leftovers in sub-folders are not read.
    """
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ or path.name.startswith("rerank-"):
            continue
        stat = path.stat()
        total.update(f"{path.name}\0{_file_hash(path, stat.st_mtime_ns, stat.st_size)}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(path: Path, _mtime: int, _size: int) -> str:
    """Hash of one file; time and size are only there to notice a change within one process."""
    if path.suffix == ".json":
        content = _without_bookkeeping(path)
        if content is not None:
            return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _without_bookkeeping(path: Path) -> bytes | None:
    try:
        content: Any = json.loads(path.read_bytes())
    except ValueError:  # not our business here: the loader will complain about it in its own words
        return None
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in _BOOKKEEPING}
    return json.dumps(content, sort_keys=True).encode()

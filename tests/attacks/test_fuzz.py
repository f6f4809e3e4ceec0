"""Mutated inputs: every reader succeeds or raises a `RerankError`, in bounded time."""

from __future__ import annotations

import random
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from rerank.errors import RerankError
from tests.attacks.mutations import mutate
from tests.attacks.readers import INPUTS, Reader, place, read_adapter, readers
from tests.attacks.scale import scaled_count

#: Seconds of processor time that one damaged input may take.
_LIMIT = 5.0


class _TooSlowError(BaseException):
    """A reader exceeded its time."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooSlowError


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attack(name: str, reader: Reader, number: int, scratch: Path) -> str:
    """Let a reader read a mutated file, and describe what it raised that is not a `RerankError`; empty if nothing."""
    rng = random.Random(number)
    file = rng.choice(sorted(reader.files))
    content = mutate(reader.files[file], rng)
    with tempfile.TemporaryDirectory(dir=scratch) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = place(reader, file, content, Path(folder))
        try:
            with time_limit(_LIMIT):
                reader.read(path)
        except RerankError:
            pass
        except (Exception, _TooSlowError) as error:  # noqa: BLE001, since anything else is a failure
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/rerank/" in f.filename]
            return f"mutation {number} of {file} ({name}): {error!r:.120} at {frames[-1:]}"
    return ""


def test_mutated_inputs_end_in_a_result_or_in_an_error_of_ours(tmp_path: Path) -> None:
    table = readers(tmp_path / "prepared")
    names = list(table)
    failures = [
        failure
        for number in range(scaled_count(20_000))
        if (failure := attack(name := names[number % len(names)], table[name], number, tmp_path))
    ]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_mutated_adapters_end_in_a_result_or_in_an_error_of_ours(tmp_path: Path, file: str) -> None:
    folder = INPUTS / "adapter"
    read_adapter(folder)  # loads torch, outside the limit of time
    reader = Reader(read=read_adapter, files={file: (folder / file).read_bytes()}, folder=folder)
    failures = [
        failure for number in range(scaled_count(200)) if (failure := attack("adapter", reader, number, tmp_path))
    ]
    assert not failures, "\n".join(failures)

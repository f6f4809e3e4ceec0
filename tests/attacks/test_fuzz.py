"""Mutated inputs: every reader succeeds or raises a `RerankError`, in bounded time."""

from __future__ import annotations

import random
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType

from rerank.errors import RerankError
from tests.attacks.mutations import mutate
from tests.attacks.readers import place, readers
from tests.attacks.scale import scaled_count

#: Seconds that one damaged input may take.
_LIMIT = 5.0


class _TooSlowError(BaseException):
    """A reader exceeded its time."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooSlowError


def test_mutated_inputs_end_in_a_result_or_in_an_error_of_ours(tmp_path: Path) -> None:
    table = readers(tmp_path / "prepared")
    count = scaled_count(20_000)
    failures: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    before = signal.signal(signal.SIGALRM, _stop)
    import time

    spent: Counter[str] = Counter()
    try:
        for number in range(count):
            rng = random.Random(number)
            name = list(table)[number % len(table)]
            reader = table[name]
            file = rng.choice(sorted(reader.files))
            content = mutate(reader.files[file], rng)
            tried[name] += 1
            t = time.time()
            with tempfile.TemporaryDirectory(dir=tmp_path) as scratch, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path = place(reader, file, content, Path(scratch))
                signal.setitimer(signal.ITIMER_REAL, _LIMIT)
                try:
                    reader.read(path)
                except RerankError:
                    pass
                except (Exception, _TooSlowError) as error:
                    frame = traceback.extract_tb(error.__traceback__)
                    ours = [f for f in frame if "/rerank/" in f.filename][-1:]
                    failures[
                        f"{name} {file}: {type(error).__name__} {str(error)[:80]!r} at {ours} (mutation {number})"
                    ] += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            spent[name] += time.time() - t
    finally:
        signal.signal(signal.SIGALRM, before)
    print(spent.most_common(12))
    print(tried)
    by = Counter(k.split(" ")[0] + k.split(": ")[0] for k in failures)
    print(len(failures), by)
    assert not failures, "\n".join(failures)

"""Progress callback and peak memory of a training."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

#: Opens a progress display from a title, the total and the number of steps already done; the function that it yields is
#: called with the number of further steps. `rerank.progress.progress` is one.
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


def peak_memory_mb() -> float:
    """Return the peak memory so far in MiB: of the GPU if there is one, otherwise of this process."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)

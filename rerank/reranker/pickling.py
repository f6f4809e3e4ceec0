"""A check that the backend of a reranker can be pickled, whose error message states what to do otherwise."""

from __future__ import annotations

import pickle

from rerank.errors import UsageError
from rerank.tasks import Backend


class _Discard:
    """A file-like object that discards all data, to try pickling without keeping the result."""

    def write(self, data: object) -> int:
        """Discard the data."""
        return 0


def check_reranker_backend_pickles(backend: Backend) -> None:
    """Check that a backend consists of objects that can be pickled.

    Functions and classes that only some picklers can pickle, such as those of a notebook, cause no error here.
    """
    try:
        pickle.Pickler(_Discard()).dump(backend)
    except TypeError as error:
        raise UsageError(
            f"The reranker cannot be pickled, because its backend {type(backend).__name__} cannot be pickled: {error}",
            expected="a backend that another process can open again, such as a backend of Reranker.from_pretrained",
            remedy="Open the reranker in the other process, or give the class of the backend a method __reduce__",
        ) from error
    except (AttributeError, pickle.PicklingError):
        return

"""One thread, as in the tests of backends."""

from tests.backends.conftest import _one_thread

__all__ = ["_one_thread"]

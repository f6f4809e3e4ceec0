"""A memo of bounded size for results that never change, such as token counts, shared by queries and threads."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from rerank.io.forks import ForkLock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Approximate size in bytes of an entry without its key and value: its slot in the dictionary and object headers.
ENTRY_BYTES = 200


class BoundedMemo(Generic[K, V]):
    """A thread-safe dictionary that drops the entries that have not been used for the longest time.

    There are two generations of entries. New and recently used entries are young. When the young generation takes up
    half of the limit, it becomes the old generation, and the previous old generation is dropped. This approximates
    "least recently used" without maintaining an order, so a look-up is a single access to a dictionary.

    ``limit`` is the maximum total size of all entries, in the unit of ``size``. An entry larger than half of it is not
    stored.
    """

    def __init__(self, limit: int, size: Callable[[K, V], int]) -> None:
        self._limit, self._size_of = limit, size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._size = 0  # total size of the young generation
        self._lock = ForkLock()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get_all(self, keys: Sequence[K]) -> list[V | None]:
        """Return the value of each key; None for keys that are not stored."""
        values = list(map(self._young.get, keys))
        if self._old:
            revived = {}
            for index in [index for index, value in enumerate(values) if value is None]:
                if (value := self._old.get(keys[index])) is not None:
                    values[index] = revived[keys[index]] = value
            self.put_all(revived.items())
        return values

    def put_all(self, items: Iterable[tuple[K, V]]) -> None:
        """Store values, which must not be None."""
        with self._lock.lock:
            for key, value in items:
                size = self._size_of(key, value)
                if key in self._young or 2 * size > self._limit:
                    continue
                if 2 * (self._size + size) > self._limit:
                    self._old, self._young, self._size = self._young, {}, 0
                self._young[key] = value
                self._size += size

"""The file ``batches.json`` of a run folder, which records the batches that the run has submitted to a provider.

A batch is recorded before it is submitted. If the run is killed before it receives the batch's id, it finds the batch
by its key when it is resumed, so no batch is submitted twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from rerank.errors import DataError
from rerank.store.run_folder import RunFolder

_FILE = "batches.json"
#: State of a batch that the provider may or may not have received, and of a batch whose replies are in the call log.
SUBMITTING, COLLECTED = "submitting", "collected"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBatch:
    """A batch of a run.

    Attributes:
        key: Random text by which the batch is found in the provider's list of batches.
        digests: The digests of the requests in the batch.
        id: The provider's id of the batch; empty if no id was received.
        state: `SUBMITTING`, then the state that the provider reports, and finally `COLLECTED`.
    """

    key: str
    digests: tuple[str, ...]
    id: str = ""
    state: str = SUBMITTING

    @classmethod
    def begin(cls, digests: Iterable[str]) -> RecordedBatch:
        """Return a new batch with a random key."""
        return cls(key=f"listrank-{secrets.token_hex(16)}", digests=tuple(digests))


class BatchRecord:
    """The batches of one run folder; every change is written to the file immediately.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Read the file if it exists."""
        self._folder = folder
        self._batches: dict[str, RecordedBatch] = {}
        if (folder.path / _FILE).is_file():
            for row in folder.read_json(_FILE, "batches")["batches"]:
                batch = self._parse(row)
                self._batches[batch.key] = batch

    def unfinished(self) -> list[RecordedBatch]:
        """Return the batches whose replies are not in the call log yet."""
        return [batch for batch in self._batches.values() if batch.state != COLLECTED]

    def write(self, batch: RecordedBatch, **changes: Any) -> RecordedBatch:
        """Record a batch after changing some of its attributes, and return the changed batch."""
        changed = self._batches[batch.key] = replace(batch, **changes)
        self._folder.write_json(_FILE, {"batches": [asdict(each) for each in self._batches.values()]})
        return changed

    def forget(self, batch: RecordedBatch) -> None:
        """Remove a batch that the provider never received."""
        del self._batches[batch.key]
        self._folder.write_json(_FILE, {"batches": [asdict(each) for each in self._batches.values()]})

    def _parse(self, row: Any) -> RecordedBatch:
        try:
            names = {name: row[name] for name in ("key", "id", "state")}
            digests = row["digests"]
            if not all(isinstance(text, str) for text in (*names.values(), *digests)) or isinstance(digests, str):
                raise TypeError("key, id or state is not a string, or digests is not a list of strings")
            return RecordedBatch(**names, digests=tuple(digests))
        except (TypeError, KeyError) as error:
            raise DataError(
                f"{str(self._folder.path / _FILE)!r} is damaged: {error!r}",
                expected="key, id, state and digests of every batch",
                remedy="Restore the file: without it, --resume submits the batches again, and they are paid for twice",
            ) from error

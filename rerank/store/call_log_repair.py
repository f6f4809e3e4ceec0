"""Repair of a damaged call log: undamaged rows are kept, so that only the other calls have to be repeated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, StorageError
from rerank.store.call_log import CallLog
from rerank.store.run_folder import RunFolder

#: Suffixes of the names of the files that SQLite uses for one database.
_BESIDE = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLogRepair:
    """The result of a repair.

    Attributes:
        kept: Number of undamaged calls, which are kept.
        damaged: Number of damaged rows that were found. Rows on pages that cannot be read are not counted.
        prompts_lost: Number of kept calls whose prompts cannot be read although prompts were logged, since each prompt
            is compressed together with earlier prompts. `rerank.experiment.run_prompts.read_run_prompts` renders them
            again.
        original: The damaged file under its new name; None if the log was undamaged and has not been changed.
    """

    kept: int
    damaged: int
    prompts_lost: int
    original: Path | None


def repair_call_log(folder: RunFolder) -> CallLogRepair:
    """Replace a damaged call log by a log with the undamaged rows; the damaged file is kept under another name.

    A finished run becomes unfinished, so that ``--resume`` repeats the calls that were lost.
    """
    path = folder.path / "calls.sqlite"
    with folder.locked():
        try:
            log = CallLog(path, readonly=True, salvage=True)
        except DataError as error:
            raise DataError(
                error.found,
                expected="a SQLite file whose list of tables can be read",
                remedy="Move the file and summary.json out of the folder; --resume then repeats all calls",
            ) from error
        with log:
            if log.is_whole():
                return CallLogRepair(kept=len(log), damaged=0, prompts_lost=0, original=None)
            rows, damaged, lost = log.whole_rows()
        try:
            draft = path.with_name(".calls.sqlite.tmp")
            for suffix in _BESIDE:
                Path(f"{draft}{suffix}").unlink(missing_ok=True)
            with CallLog(draft) as repaired:
                repaired.put_rows(rows)
            original = next(p for n in range(1, 1000) if not (p := path.with_name(f"calls.sqlite.damaged{n}")).exists())
            (folder.path / "summary.json").unlink(missing_ok=True)
            os.link(path, original)  # calls.sqlite exists at any time, in case the process is killed
            for suffix in _BESIDE[1:]:
                if (old := Path(f"{path}{suffix}")).exists():
                    old.rename(f"{original}{suffix}")
            draft.replace(path)
        except OSError as error:
            raise StorageError(
                f"The repaired call log cannot be written to {str(folder.path)!r}: {error.strerror or error}",
                remedy="Free disk space, or check the permissions of the folder",
            ) from error
    return CallLogRepair(kept=len(rows), damaged=damaged, prompts_lost=lost, original=original)

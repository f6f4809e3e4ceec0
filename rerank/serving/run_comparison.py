"""Comparison of run files that clients name; only files in the server's configured folders are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import MissingResourceError
from rerank.evaluation.comparison import compare_evaluated_measures, score_compared_runs
from rerank.evaluation.comparison_family import ComparisonOptions
from rerank.io.run_files import read_qrels, read_run


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Folders whose run files, and relevance judgments, clients may name in comparisons.

    Attributes:
        folders: Paths of the folders, which must exist.
    """

    folders: Sequence[Path]

    def __post_init__(self) -> None:
        """Check that the folders exist."""
        for folder in self.folders:
            if not folder.is_dir():
                raise MissingResourceError(f"{str(folder)!r} is not a folder", expected="a folder of run files")

    def find(self, name: str) -> Path:
        """Return the path of a file in the folders.

        Args:
            name: Path of the file, absolute or relative to one of the folders.
        """
        for folder in self.folders:
            with suppress(OSError, ValueError):  # a name that is too long or contains a null character
                path = (folder / name).resolve()
                if path.is_relative_to(folder.resolve()) and path.is_file():
                    return path
        raise MissingResourceError(
            f"{name!r} is not a file in the folders of this server",
            expected=f"a file in {', '.join(str(folder) for folder in self.folders)}",
        )

    def compare(self, runs: Sequence[str], qrels: str, measures: Sequence[str], test: str) -> dict[str, Any]:
        """Compare runs pair by pair.

        Args:
            runs: Paths of run files, which are also used as the names of the runs.
            qrels: Path of the file with relevance judgments.
            measures: Names of measures.
            test: Selector of the significance test.

        Returns:
            Means, differences, confidence intervals and p-values, in the format of `rerank compare --format json`.
        """
        opened = [read_run(self.find(name), name=name) for name in runs]
        compared = score_compared_runs(read_qrels(self.find(qrels)), opened, measures)
        result = compare_evaluated_measures(compared.scores, compared.measures, ComparisonOptions(test=test))
        return result.with_notes(compared.notes).to_dict()

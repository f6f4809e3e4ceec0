"""Which card belongs to which run file: the one that names it in ``run``, or the one of its name.

Knows where cards lie, not what they say beyond that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rerank.errors import DataError
from rerank.io.text_files import read_toml
from rerank.leaderboard.card import Card, read_card

_ENDS = (".trec", ".run", ".txt", ".jsonl", ".json", ".tsv")


def stem(path: Path) -> str:
    """A run file's name without its endings."""
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)


class Cards:
    """The cards that may be meant, read once.

    Args:
        folder: A folder of cards for runs that lie elsewhere; None if there is none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Remember the folder."""
        self._folder = folder
        self._named = cache(_named)

    def of(self, run: Path) -> Card:
        """The card of a run file; an empty one where none is.

        In the folder of cards, ``run`` may be the file's name alone, since its place is not seen from there.

        Raises:
            DataError: Two cards name the file, or its card is wrong or names a file that is not there.
        """
        for folder in (self._folder, run.parent):
            if folder is None or not folder.is_dir():
                continue
            claims = self._named(folder)
            apart = folder.resolve() != run.parent.resolve()
            found = [card for card, said in claims.items() if _means(card, said, run, by_name=apart)]
            if len(found) > 1:
                raise DataError(
                    f"{len(found)} cards name the run file {str(run)!r}: {_listed(found)}",
                    expected="one card a run",
                    remedy="Remove the others, or correct their run",
                )
            own = folder / f"{stem(run)}.toml"
            if not found and own.is_file():
                if own not in claims:
                    found = [own]
                elif not apart and not (folder / claims[own]).is_file():
                    raise DataError(
                        f"The card {str(own)!r} names the run file {claims[own]!r}, which is not there",
                        expected=f"{run.name}, which lies beside it under its name, or no run",
                    )
            if found:
                return read_card(found[0])
        return Card()


def _named(folder: Path) -> dict[Path, str]:
    """The cards in a folder that name their run; other TOML files may lie there too."""
    said = {}
    for path in sorted(path for path in folder.glob("*.toml") if path.is_file()):
        try:
            said[path] = read_toml(path, "file").get("run")
        except DataError as error:  # whose card it is nobody can tell; a run of its name will not take it silently
            warnings.warn(f"{error.found}, so it is taken for no card", stacklevel=2)
    return {path: run for path, run in said.items() if isinstance(run, str) and run}


def _means(card: Path, said: str, run: Path, *, by_name: bool) -> bool:
    return (card.parent / said).resolve() == run.resolve() or (by_name and said == run.name)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(repr(str(path)) for path in paths)

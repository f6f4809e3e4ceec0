"""Names -> objects, without importing what is not asked for.

A room (``strategies``, ``collections`` ...) is a package. Each of its modules is one thing: ``sliding.py`` holds the
class ``Sliding`` and is found as ``sliding``; modules named ``base`` or with a leading underscore are the room's own.
Other distributions add things through entry points of the group ``rerank.<room>``. So adding a thing is adding its
file, and listing names imports none of them.

This module knows names, not what the things do.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rerank.errors import MissingPrerequisiteError, RerankError, UnknownNameError, UsageError


def class_name(module: str) -> str:
    """The class a module holds: ``bm25`` -> ``Bm25``, ``top_down`` -> ``TopDown``."""
    return "".join(part.capitalize() for part in module.split("_"))


class Registry:
    """The things of one room, by name.

    Args:
        room: Name of the sub-package of ``rerank``, and of the entry-point group ``rerank.<room>``.
        kind: What one of its things is called in messages, e.g. ``"strategy"``.
    """

    def __init__(self, room: str, kind: str) -> None:
        """Remember where to look; nothing is imported yet."""
        self.room = room
        self.kind = kind

    def names(self) -> list[str]:
        """All names, sorted, built-in and added."""
        return sorted({*_built_in(self.room), *self._added()})

    def __contains__(self, name: str) -> bool:
        """Whether there is something called ``name`` (dashes and underscores are the same)."""
        return name.replace("-", "_") in self.names()

    def get(self, name: str) -> Any:
        """Import and return the thing called ``name`` (dashes and underscores are the same).

        Raises:
            UnknownNameError: There is none; the message suggests the nearest.
            MissingPrerequisiteError: It is there, but something that it imports is not.
            UsageError: An added thing has the name of a built-in one.
        """
        wanted = name.replace("-", "_")
        added = self._added()
        if wanted in _built_in(self.room):
            if wanted in added:
                raise UsageError(
                    f"The {self.kind} {name!r} is built in, and {added[wanted].value!r} claims the same name",
                    remedy="Rename or uninstall the added one",
                )
            module = importlib.import_module(f"rerank.{self.room}.{wanted}")
            return getattr(module, class_name(wanted))
        if wanted not in added:
            raise UnknownNameError(self.kind, name, [known.replace("_", "-") for known in self.names()])
        return self._load(added[wanted])

    def usable(self) -> dict[str, Any]:
        """Everything that loads; what does not is warned about and left out, so one bad plug-in breaks nothing."""
        found: dict[str, Any] = {}
        for name in self.names():
            try:
                found[name] = self.get(name)
            except RerankError as error:
                warnings.warn(f"The {self.kind} {name!r} is left out: {error}", stacklevel=2)
        return found

    def _added(self) -> dict[str, EntryPoint]:
        points = _points(f"rerank.{self.room}", tuple(sys.path))
        return {point.name.replace("-", "_"): point for point in points}

    def _load(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as error:  # whatever a stranger's module does at import must not end the program
            raise MissingPrerequisiteError(
                f"The {self.kind} {point.name!r} from {point.value!r} does not load: {error!r}",
                remedy="Repair or uninstall the distribution that brings it",
            ) from error


@cache
def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of a group; finding them reads the metadata of all distributions on the path, so it is done once."""
    return tuple(entry_points(group=group))


@cache
def _built_in(room: str) -> frozenset[str]:
    package = importlib.import_module(f"rerank.{room}")
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return frozenset(name for name in names if name != "base" and not name.startswith("_"))

"""Registries that map plug-in names to classes, which are imported on first use.

A plug-in package (``strategies``, ``collections``, ...) contains ``base`` and its plug-ins. Each module or sub-package
is one plug-in: ``sliding.py`` defines the class ``Sliding``, which is registered as ``sliding``, without further
registration. Plug-ins that are read together may share a module; the registry's table ``shared`` names them. Other
distributions add plug-ins through entry points of the group ``rerank.<package>``. Listing the names does not import the
plug-ins.
"""

import importlib
import pkgutil
import re
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rerank.errors import MissingPrerequisiteError, RerankError, UnknownNameError, UsageError


def plugin_class_name(module: str) -> str:
    """Return the name of the plug-in class in the module with this name.

    >>> plugin_class_name("top_down")
    'TopDown'
    """
    return "".join(part.capitalize() for part in module.split("_"))


def plugin_name(plugin: type) -> str:
    """Return the name that users write for a built-in plug-in with this class.

    >>> class TopDown: ...
    >>> plugin_name(TopDown)
    'top-down'
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "-", plugin.__name__).lower()


class Registry:
    """The plug-ins of one package, which are found by name and imported on first use.

    Args:
        kind: Noun for a plug-in in messages, such as ``"strategy"``.
        experimental: Name of a second sub-package whose plug-ins are marked as experimental; empty for none.
        shared: Modules below ``rerank`` that define several plug-ins, with the names of these: the module
            ``"finetune.losses"`` with ``"list_net rank_net"`` defines the classes ``ListNet`` and ``RankNet``.
    """

    def __init__(
        self, package: str, kind: str, *, experimental: str = "", shared: Mapping[str, str] | None = None
    ) -> None:
        self.package = package
        self.kind = kind
        self.experimental = experimental
        self.shared = dict(shared or {})

    def names(self) -> list[str]:
        """Return the sorted names of all plug-ins, built-in ones and those of other distributions."""
        return sorted({*self._built_in(), *self._added()})

    def __contains__(self, name: str) -> bool:
        return name.replace("-", "_") in self.names()

    def get(self, name: str) -> Any:
        """Import and return the plug-in with this name; dashes and underscores are equivalent."""
        module = name.replace("-", "_")
        added = self._added()
        built_in = self._built_in()
        if module in built_in:
            if module in added:
                raise UsageError(
                    f"The {self.kind} {name!r} is built in, but {added[module].value!r} has the same name",
                    remedy="Rename or uninstall the added plug-in",
                )
            return getattr(importlib.import_module(f"rerank.{built_in[module]}"), plugin_class_name(module))
        if module not in added:
            raise UnknownNameError(self.kind, name, [known.replace("_", "-") for known in self.names()])
        return self._load(added[module])

    def usable(self) -> dict[str, Any]:
        """Return all plug-ins that can be loaded, by name, and warn about the others instead of raising an error."""
        plugins: dict[str, Any] = {}
        for name in self.names():
            try:
                plugins[name] = self.get(name)
            except RerankError as error:
                warnings.warn(f"The {self.kind} {name!r} is ignored: {error}", stacklevel=2)
        return plugins

    def is_experimental(self, name: str) -> bool:
        """Return whether a built-in plug-in is in the package of experimental plug-ins."""
        module = self._built_in().get(name.replace("-", "_"), "")
        return bool(self.experimental) and f"{module}.".startswith(f"{self.experimental}.")

    def _built_in(self) -> dict[str, str]:
        """Return a mapping from the name of each built-in plug-in to the module below ``rerank`` that defines it."""
        packages = (package for package in (self.package, self.experimental) if package)
        modules = {name: f"{package}.{name}" for package in packages for name in _plugin_modules(package)}
        own = {name: module for name, module in modules.items() if module not in self.shared}
        return own | {name: module for module, names in self.shared.items() for name in names.split()}

    def _added(self) -> dict[str, EntryPoint]:
        return {point.name.replace("-", "_"): point for point in plugin_entry_points(f"rerank.{self.package}")}

    def _load(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as error:  # a plug-in may raise anything when it is imported; that must not end the program
            moved = isinstance(error, ImportError) and (error.name or "").split(".")[0] == "rerank"
            raise MissingPrerequisiteError(
                f"The {self.kind} {point.name!r} from {point.value!r} cannot be loaded: {error!r}",
                remedy="It was written for another version of listrank: update it, or install that version"
                if moved
                else "Repair or uninstall the distribution that contains it",
            ) from error


def plugin_entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group; cached, since this reads the metadata of all distributions on the path."""
    return _plugin_entry_points(group, tuple(sys.path))


@cache
def _plugin_entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


@cache
def _plugin_modules(package: str) -> tuple[str, ...]:
    """Return the names of the plug-in modules of a package; a plain module has none."""
    path = getattr(importlib.import_module(f"rerank.{package}"), "__path__", ())
    return tuple(module.name for module in pkgutil.iter_modules(path) if module.name != "base")

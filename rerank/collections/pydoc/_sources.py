"""Functions that parse the source files of the standard library, and find public names of private definitions.

Files are parsed with ``ast``; nothing is imported or executed.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError

#: Modules that are not part of the documented library: tests, IDLE, demos and third-party packages.
_NOT_LIBRARY = "test tests idlelib turtledemo site-packages dist-packages sitecustomize usercustomize"
#: Modules that are often missing because distributors package them separately.
_OFTEN_APART = "ensurepip tkinter turtle"
#: Modules removed in Python 3.12 or, by PEP 594, in 3.13; no answer should recommend them.
_REMOVED = (
    "asynchat asyncore distutils imp lib2to3 smtpd "
    "aifc audioop cgi cgitb chunk crypt imghdr mailcap msilib nis nntplib ossaudiodev pipes sndhdr spwd sunau "
    "telnetlib uu xdrlib"
)
_SKIPPED = frozenset(f"{_NOT_LIBRARY} {_OFTEN_APART} {_REMOVED}".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModule:
    """A parsed Python module with its syntax tree.

    Attributes:
        name: Dotted name of the module.
        package: Package to which the module's relative imports refer: the module itself if it is a package, otherwise
            its parent.
        tree: The syntax tree.
    """

    name: str
    package: str
    tree: ast.Module


def is_private_pydoc_name(dotted: str) -> bool:
    """Return whether any part of a dotted name starts with an underscore."""
    return any(part.startswith("_") for part in dotted.split("."))


def read_python_sources(folder: Path) -> dict[str, SourceModule]:
    """Parse every module in ``folder`` and its sub-folders, including private modules.

    Returns:
        A mapping from module name to parsed module, in a fixed order.
    """
    return {source.name: source for source in _walk_python_files(folder, "")}


def _walk_python_files(folder: Path, package: str) -> Iterator[SourceModule]:
    for path in sorted(folder.iterdir()):
        if path.stem == "__init__" and package and path.suffix == ".py":
            yield SourceModule(name=package, package=package, tree=_parse_python_file(path))
        if not path.stem.isidentifier() or path.stem.startswith("__") or path.stem in _SKIPPED:
            continue
        name = f"{package}.{path.stem}" if package else path.stem
        if path.suffix == ".py":
            yield SourceModule(name=name, package=package, tree=_parse_python_file(path))
        elif (path / "__init__.py").is_file():
            yield from _walk_python_files(path, name)


def _parse_python_file(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's string literals may contain invalid escapes
        try:
            return ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError) as error:
            raise DataError(
                f"{path} cannot be parsed: {error}",
                expected="source for the running Python version",
                remedy="Repair this Python installation",
            ) from error


def pydoc_definition_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module or class, including those under ``if``, ``try`` and ``with``."""
    for node in body:
        yield node
        for field in ("body", "handlers", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                for child in getattr(node, field, []):
                    yield from pydoc_definition_statements(
                        child.body if isinstance(child, ast.ExceptHandler) else [child]
                    )


def public_python_names(sources: Mapping[str, SourceModule]) -> dict[str, dict[str, str]]:
    """Return the public names of definitions in private modules, as a mapping module -> name -> public dotted name.

    For example, ``datetime`` imports its classes from ``_pydatetime`` in some versions, and ``pathlib`` from
    ``pathlib._local``. A re-export counts if the public module imports all names (``*``), lists the name in
    ``__all__``, is a package that contains the private module, or replaces itself with the private module in
    ``sys.modules`` (as ``decimal`` does). If there are several public names, the one with the fewest dots is used, and
    among these the first alphabetically.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for source in sources.values():
        if not is_private_pydoc_name(source.name):
            for module, name, public in _re_exported_names(source, sources):
                places.setdefault((module, name), []).append(public)
    table: dict[str, dict[str, str]] = {}
    for (module, name), candidates in places.items():
        table.setdefault(module, {})[name] = min(candidates, key=lambda public: (public.count("."), public))
    return table


def _re_exported_names(source: SourceModule, sources: Mapping[str, SourceModule]) -> Iterator[tuple[str, str, str]]:
    listed = _names_in_dunder_all(source)
    for node in pydoc_definition_statements(source.tree.body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in sources:
            place = _pydoc_collection_replaced_module(node, source.name)
            yield from (
                (node.value.id, name, f"{place}.{name}")
                for name in _pydoc_collection_star_imports(sources[node.value.id])
                if place
            )
        if not isinstance(node, ast.ImportFrom):
            continue
        module = _imported_pydoc_module(node, source.package)
        if module not in sources or not is_private_pydoc_name(module):
            continue
        own = module.startswith(source.name + ".")
        for alias in node.names:
            if alias.name == "*":
                yield from (
                    (module, name, f"{source.name}.{name}") for name in _pydoc_collection_star_imports(sources[module])
                )
            elif own or (alias.asname or alias.name) in listed:
                yield module, alias.name, f"{source.name}.{alias.asname or alias.name}"


def _pydoc_collection_replaced_module(node: ast.Assign, name: str) -> str:
    """Return the public module that a statement ``sys.modules[...] = other`` replaces; empty for other statements."""
    match node.targets:
        case [ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Constant(value=str(place)))]:
            return place
        case [ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Name(id="__name__"))]:
            return name
    return ""


def _imported_pydoc_module(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _names_in_dunder_all(source: SourceModule) -> set[str]:
    """Return the strings that are assigned or added to ``__all__``."""
    names: set[str] = set()
    for node in pydoc_definition_statements(source.tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            names |= {
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return names


def _pydoc_collection_star_imports(source: SourceModule) -> list[str]:
    """Return the names that ``from module import *`` imports."""
    defined = [
        node.name
        for node in pydoc_definition_statements(source.tree.body)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    listed = _names_in_dunder_all(source)
    return [name for name in defined if (name in listed if listed else not name.startswith("_"))]

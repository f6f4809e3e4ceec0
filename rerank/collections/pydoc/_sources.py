"""The source files of the standard library: which there are, parsed, and where a private module's names are public.

Knows modules and their import statements, not documents. Nothing is imported or executed: files are parsed by ``ast``.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError

#: Not the library as users see it: tests, IDLE, demos, and what other people put beside it.
_NOT_LIBRARY = "test tests idlelib turtledemo site-packages dist-packages sitecustomize usercustomize"
#: Parts that distributors ship apart from the interpreter, so that they are often not there.
_OFTEN_APART = "ensurepip tkinter turtle"
#: Gone in Python 3.12 or, by PEP 594, in 3.13. No answer should recommend them.
_REMOVED = (
    "asynchat asyncore distutils imp lib2to3 smtpd "
    "aifc audioop cgi cgitb chunk crypt imghdr mailcap msilib nis nntplib ossaudiodev pipes sndhdr spwd sunau "
    "telnetlib uu xdrlib"
)
_SKIPPED = frozenset(f"{_NOT_LIBRARY} {_OFTEN_APART} {_REMOVED}".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One parsed file.

    Attributes:
        name: The module's dotted name.
        package: What its relative imports start from: its own name if it is a package, else its parent's.
        tree: The syntax tree.
    """

    name: str
    package: str
    tree: ast.Module


def is_private(dotted: str) -> bool:
    """Whether any part of a dotted name starts with an underscore."""
    return any(part.startswith("_") for part in dotted.split("."))


def read_sources(folder: Path) -> dict[str, Source]:
    """Parse every module under ``folder``, private ones too; module name -> source, in a fixed order.

    Raises:
        DataError: A file is no Python source of this interpreter's version.
    """
    return {source.name: source for source in _walk(folder, "")}


def _walk(folder: Path, package: str) -> Iterator[Source]:
    for path in sorted(folder.iterdir()):
        if path.stem == "__init__" and package and path.suffix == ".py":
            yield Source(name=package, package=package, tree=_parse(path))
        if not path.stem.isidentifier() or path.stem.startswith("__") or path.stem in _SKIPPED:
            continue
        name = f"{package}.{path.stem}" if package else path.stem
        if path.suffix == ".py":
            yield Source(name=name, package=package, tree=_parse(path))
        elif (path / "__init__.py").is_file():
            yield from _walk(path, name)


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in literals of the library, which are not ours to repair
        try:
            return ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError) as error:
            raise DataError(
                f"{path} does not parse: {error}",
                expected="source of the Python version that runs",
                remedy="Repair this Python installation",
            ) from error


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, those under ``if``, ``try`` and ``with`` included."""
    for node in body:
        yield node
        for field in ("body", "handlers", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                for child in getattr(node, field, []):
                    yield from statements(child.body if isinstance(child, ast.ExceptHandler) else [child])


def public_names(sources: Mapping[str, Source]) -> dict[str, dict[str, str]]:
    """Where the names of private modules can be had: private module -> name there -> public dotted name.

    ``datetime`` takes its classes from ``_pydatetime`` in some versions and defines them in others; ``pathlib`` from
    ``pathlib._local``. A re-export counts if the public module imports all names, or lists the name in ``__all__``, or
    is a package the private module is in, or puts the private one in its place in ``sys.modules`` (as ``decimal``
    does). Of several places the one with the fewest dots counts, then the first by name.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for source in sources.values():
        if not is_private(source.name):
            for module, name, public in _re_exports(source, sources):
                places.setdefault((module, name), []).append(public)
    table: dict[str, dict[str, str]] = {}
    for (module, name), candidates in places.items():
        table.setdefault(module, {})[name] = min(candidates, key=lambda public: (public.count("."), public))
    return table


def _re_exports(source: Source, sources: Mapping[str, Source]) -> Iterator[tuple[str, str, str]]:
    listed = _all(source)
    for node in statements(source.tree.body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in sources:
            place = _place_in_modules(node, source.name)
            yield from ((node.value.id, name, f"{place}.{name}") for name in _star(sources[node.value.id]) if place)
        if not isinstance(node, ast.ImportFrom):
            continue
        module = _target(node, source.package)
        if module not in sources or not is_private(module):
            continue
        own = module.startswith(source.name + ".")
        for alias in node.names:
            if alias.name == "*":
                yield from ((module, name, f"{source.name}.{name}") for name in _star(sources[module]))
            elif own or (alias.asname or alias.name) in listed:
                yield module, alias.name, f"{source.name}.{alias.asname or alias.name}"


def _place_in_modules(node: ast.Assign, name: str) -> str:
    """Which public module ``sys.modules[...] = other`` replaces, if that is what the statement is; else empty."""
    match node.targets:
        case [ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Constant(value=str(place)))]:
            return place
        case [ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Name(id="__name__"))]:
            return name
    return ""


def _target(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _all(source: Source) -> set[str]:
    """The strings that are assigned or added to ``__all__``."""
    found: set[str] = set()
    for node in statements(source.tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            found |= {
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return found


def _star(source: Source) -> list[str]:
    """The names that ``from module import *`` takes."""
    defined = [
        node.name
        for node in statements(source.tree.body)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    listed = _all(source)
    return [name for name in defined if (name in listed if listed else not name.startswith("_"))]

"""Extraction of documents from docstrings of the standard library with ``ast``, without importing or executing code."""

import ast
import gc
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rerank.errors import DataError, MissingResourceError
from rerank.types import Document

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

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A parsed Python module with its syntax tree."""

    name: str  # dotted name of the module
    #: Package to which the module's relative imports refer: the module itself if it is a package, otherwise its parent.
    package: str
    tree: ast.Module  # the syntax tree


@cache
def read_standard_library_documents() -> tuple[Document, ...]:
    """Return the documents of the running interpreter's standard library, which is read once per process."""
    return read_docstring_documents(Path(sysconfig.get_path("stdlib")))


def read_docstring_documents(folder: Path) -> tuple[Document, ...]:
    """Read one document per public module, class, function and method with a docstring, sorted by id.

    The id consists of the defining module and the qualified name. For a definition in a private module, the id contains
    the name of the public module that re-exports the definition (`_public_names`); definitions that no public
    module re-exports are omitted. The title is the id with the signature. The text is the docstring without
    indentation; for a class, the docstring of ``__init__`` follows.
    """
    was_on = gc.isenabled()
    gc.disable()  # cyclic garbage collection would take 3/4 of the time without being able to free syntax trees
    try:
        sources = {source.name: source for source in _walk(folder, "")} if folder.is_dir() else {}
        if "textwrap" in sources:
            return _unique_documents(sources)
    finally:
        if was_on:
            gc.enable()
    raise MissingResourceError(
        f"There are no Python sources in {folder}",
        expected="the standard library's .py files, including textwrap.py",
        remedy="Use an interpreter with its library as files (python.org, Debian, conda, pyenv), not in a zip",
    )


def _unique_documents(sources: dict[str, _Source]) -> tuple[Document, ...]:
    """Return one document per id: that of a public module if there is one, otherwise of the first private module."""
    re_exported = _public_names(sources)
    documents: dict[str, Document] = {}
    for source in sorted(sources.values(), key=lambda source: _is_private(source.name)):
        if _is_private(source.name):
            documents_of = _member_documents(source.tree.body, re_exported.get(source.name, {}))
        else:
            documents_of = _module_documents(source)
        for doc in documents_of:
            documents.setdefault(doc.id, doc)
    return tuple(documents[doc_id] for doc_id in sorted(documents))


def _module_documents(source: _Source) -> Iterator[Document]:
    if text := ast.get_docstring(source.tree):
        yield Document(id=source.name, title=source.name, text=text)
    names = [node.name for node in _statements(source.tree.body) if isinstance(node, ast.ClassDef | _Function)]
    yield from _member_documents(source.tree.body, {name: f"{source.name}.{name}" for name in names})


def _member_documents(body: list[ast.stmt], ids: dict[str, str], *, method: bool = False) -> Iterator[Document]:
    """Yield documents of the definitions in ``body`` whose names are keys of ``ids``, a mapping from name to id."""
    for node in _statements(body):
        if not isinstance(node, ast.ClassDef | _Function) or node.name not in ids or _is_private(ids[node.name]):
            continue
        doc_id = ids[node.name]
        if isinstance(node, ast.ClassDef):
            yield from _class_documents(node, doc_id)
        elif text := ast.get_docstring(node):
            yield Document(id=doc_id, title=doc_id + _format_signature(node, method=method), text=text)


def _class_documents(node: ast.ClassDef, doc_id: str) -> Iterator[Document]:
    inner = [child for child in _statements(node.body) if isinstance(child, ast.ClassDef | _Function)]
    makers = [child for child in inner if child.name == "__init__" and isinstance(child, ast.FunctionDef)]
    texts = [ast.get_docstring(node), *(ast.get_docstring(maker) for maker in makers[:1])]
    if text := "\n\n".join(filter(None, texts)):
        signature = _format_signature(makers[0], method=True) if makers else ""
        yield Document(id=doc_id, title=doc_id + signature, text=text)
    yield from _member_documents(node.body, {child.name: f"{doc_id}.{child.name}" for child in inner}, method=True)


def _format_signature(node: _Function, *, method: bool) -> str:
    """Return the parameters in parentheses, without ``self`` or ``cls``; empty for a property."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "setter", "deleter"}:
        return ""
    instance = (node.args.posonlyargs or node.args.args)[:1] if method and "staticmethod" not in decorators else []
    arguments = ast.arguments(
        posonlyargs=[argument for argument in node.args.posonlyargs if argument not in instance],
        args=[argument for argument in node.args.args if argument not in instance],
        vararg=node.args.vararg,
        kwonlyargs=node.args.kwonlyargs,
        kw_defaults=node.args.kw_defaults,
        kwarg=node.args.kwarg,
        defaults=node.args.defaults,
    )
    return f"({ast.unparse(arguments)})"


def _is_private(dotted: str) -> bool:
    """Return whether any part of a dotted name starts with an underscore."""
    return any(part.startswith("_") for part in dotted.split("."))


def _walk(folder: Path, package: str) -> Iterator[_Source]:
    for path in sorted(folder.iterdir()):
        if path.stem == "__init__" and package and path.suffix == ".py":
            yield _Source(name=package, package=package, tree=_parse(path))
        if not path.stem.isidentifier() or path.stem.startswith("__") or path.stem in _SKIPPED:
            continue
        name = f"{package}.{path.stem}" if package else path.stem
        if path.suffix == ".py":
            yield _Source(name=name, package=package, tree=_parse(path))
        elif (path / "__init__.py").is_file():
            yield from _walk(path, name)


def _parse(path: Path) -> ast.Module:
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


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module or class, including those under ``if``, ``try`` and ``with``."""
    for node in body:
        yield node
        for field in ("body", "handlers", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                for child in getattr(node, field, []):
                    yield from _statements(child.body if isinstance(child, ast.ExceptHandler) else [child])


def _public_names(sources: Mapping[str, _Source]) -> dict[str, dict[str, str]]:
    """Return the public names of definitions in private modules, as a mapping module -> name -> public dotted name.

    For example, ``datetime`` imports its classes from ``_pydatetime`` in some versions, and ``pathlib`` from
    ``pathlib._local``. A re-export counts if the public module imports all names (``*``), lists the name in
    ``__all__``, is a package that contains the private module, or replaces itself with the private module in
    ``sys.modules`` (as ``decimal`` does). If there are several public names, the one with the fewest dots is used, and
    among these the first alphabetically.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for source in sources.values():
        if not _is_private(source.name):
            for module, name, public in _re_exported_names(source, sources):
                places.setdefault((module, name), []).append(public)
    table: dict[str, dict[str, str]] = {}
    for (module, name), candidates in places.items():
        table.setdefault(module, {})[name] = min(candidates, key=lambda public: (public.count("."), public))
    return table


def _re_exported_names(source: _Source, sources: Mapping[str, _Source]) -> Iterator[tuple[str, str, str]]:
    listed = _names_in_dunder_all(source)
    for node in _statements(source.tree.body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in sources:
            place = _replaced_module(node, source.name)
            yield from (
                (node.value.id, name, f"{place}.{name}") for name in _star_imports(sources[node.value.id]) if place
            )
        if not isinstance(node, ast.ImportFrom):
            continue
        module = _imported_module(node, source.package)
        if module not in sources or not _is_private(module):
            continue
        own = module.startswith(source.name + ".")
        for alias in node.names:
            if alias.name == "*":
                yield from ((module, name, f"{source.name}.{name}") for name in _star_imports(sources[module]))
            elif own or (alias.asname or alias.name) in listed:
                yield module, alias.name, f"{source.name}.{alias.asname or alias.name}"


def _replaced_module(node: ast.Assign, name: str) -> str:
    """Return the public module that a statement ``sys.modules[...] = other`` replaces; empty for other statements."""
    match node.targets:
        case [ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Constant(value=str(place)))]:
            return place
        case [ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Name(id="__name__"))]:
            return name
    return ""


def _imported_module(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _names_in_dunder_all(source: _Source) -> set[str]:
    names: set[str] = set()
    for node in _statements(source.tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            names |= {
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return names


def _star_imports(source: _Source) -> list[str]:
    """Return the names that ``from module import *`` imports."""
    defined = [node.name for node in _statements(source.tree.body) if isinstance(node, ast.ClassDef | _Function)]
    listed = _names_in_dunder_all(source)
    return [name for name in defined if (name in listed if listed else not name.startswith("_"))]

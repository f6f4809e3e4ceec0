"""Documents made of the standard library's docstrings, by ``ast``: nothing that is read is imported or executed.

Knows sources and docstrings, not questions or judgments, and needs nothing but the standard library.
"""

from __future__ import annotations

import ast
import gc
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rerank.collections.pydoc._sources import Source, is_private, public_names, read_sources, statements
from rerank.errors import MissingResourceError
from rerank.types import Document

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def standard_library() -> tuple[Document, ...]:
    """The documents of the running interpreter's library, read once a process."""
    return read_documents(Path(sysconfig.get_path("stdlib")))


def read_documents(folder: Path) -> tuple[Document, ...]:
    """Read one document per public module, class, function and method with a docstring, sorted by id.

    The id is the defining module and the qualified name. What a private module defines counts under the public module
    that hands it on (`public_names`), and not at all if none does. The title is the id with the signature; the text is
    the docstring without its indentation. A class's text goes on with the docstring of its ``__init__``.

    Args:
        folder: The folder of the library's source files.

    Raises:
        MissingResourceError: There are no source files.
        DataError: A file does not parse.
    """
    with _no_collector():
        sources = read_sources(folder) if folder.is_dir() else {}
        if "textwrap" in sources:
            return _unique(sources)
    raise MissingResourceError(
        f"No Python sources in {folder}",
        expected="the standard library's .py files, textwrap.py among them",
        remedy="Run an interpreter that has its library as files (python.org, Debian, conda, pyenv), not from a zip",
    )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Pause cyclic garbage collection: all trees stay alive to the end, and walking them takes 3/4 of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _unique(sources: dict[str, Source]) -> tuple[Document, ...]:
    """One document per id: definitions in public modules come first, then the order of the sources decides."""
    handed_on = public_names(sources)
    documents: dict[str, Document] = {}
    for source in sorted(sources.values(), key=lambda source: is_private(source.name)):
        if is_private(source.name):
            found = _members(source.tree.body, handed_on.get(source.name, {}))
        else:
            found = _module(source)
        for doc in found:
            documents.setdefault(doc.id, doc)
    return tuple(documents[doc_id] for doc_id in sorted(documents))


def _module(source: Source) -> Iterator[Document]:
    if text := ast.get_docstring(source.tree):
        yield Document(id=source.name, title=source.name, text=text)
    names = [node.name for node in statements(source.tree.body) if isinstance(node, ast.ClassDef | _Function)]
    yield from _members(source.tree.body, {name: f"{source.name}.{name}" for name in names})


def _members(body: list[ast.stmt], ids: dict[str, str], *, method: bool = False) -> Iterator[Document]:
    """Documents of the definitions in ``body`` whose names are keys of ``ids`` (name -> id)."""
    for node in statements(body):
        if not isinstance(node, ast.ClassDef | _Function) or node.name not in ids or is_private(ids[node.name]):
            continue
        doc_id = ids[node.name]
        if isinstance(node, ast.ClassDef):
            yield from _class(node, doc_id)
        elif text := ast.get_docstring(node):
            yield Document(id=doc_id, title=doc_id + _signature(node, method=method), text=text)


def _class(node: ast.ClassDef, doc_id: str) -> Iterator[Document]:
    inner = [child for child in statements(node.body) if isinstance(child, ast.ClassDef | _Function)]
    makers = [child for child in inner if child.name == "__init__" and isinstance(child, ast.FunctionDef)]
    texts = [ast.get_docstring(node), *(ast.get_docstring(maker) for maker in makers[:1])]
    if text := "\n\n".join(filter(None, texts)):
        signature = _signature(makers[0], method=True) if makers else ""
        yield Document(id=doc_id, title=doc_id + signature, text=text)
    yield from _members(node.body, {child.name: f"{doc_id}.{child.name}" for child in inner}, method=True)


def _signature(node: _Function, *, method: bool) -> str:
    """The arguments in parentheses, less the instance; nothing for a property."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "setter", "deleter"}:
        return ""
    instance = (node.args.posonlyargs or node.args.args)[:1] if method and "staticmethod" not in decorators else []
    kept = ast.arguments(
        posonlyargs=[argument for argument in node.args.posonlyargs if argument not in instance],
        args=[argument for argument in node.args.args if argument not in instance],
        vararg=node.args.vararg,
        kwonlyargs=node.args.kwonlyargs,
        kw_defaults=node.args.kw_defaults,
        kwarg=node.args.kwarg,
        defaults=node.args.defaults,
    )
    return f"({ast.unparse(kept)})"

"""Extraction of documents from docstrings of the standard library with ``ast``, without importing or executing code."""

from __future__ import annotations

import ast
import gc
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rerank.collections.pydoc._sources import (
    SourceModule,
    is_private_pydoc_name,
    public_python_names,
    pydoc_definition_statements,
    read_python_sources,
)
from rerank.errors import MissingResourceError
from rerank.types import Document

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def read_standard_library_documents() -> tuple[Document, ...]:
    """Return the documents of the running interpreter's standard library, which is read once per process."""
    return read_docstring_documents(Path(sysconfig.get_path("stdlib")))


def read_docstring_documents(folder: Path) -> tuple[Document, ...]:
    """Read one document per public module, class, function and method with a docstring, sorted by id.

    The id consists of the defining module and the qualified name. For a definition in a private module, the id contains
    the name of the public module that re-exports the definition (`public_python_names`); definitions that no public
    module re-exports are omitted. The title is the id with the signature. The text is the docstring without
    indentation; for a class, the docstring of ``__init__`` follows.

    Args:
        folder: The folder of the library's source files.
    """
    with _pause_gc_for_pydoc_collection():
        sources = read_python_sources(folder) if folder.is_dir() else {}
        if "textwrap" in sources:
            return _unique_docstring_documents(sources)
    raise MissingResourceError(
        f"There are no Python sources in {folder}",
        expected="the standard library's .py files, including textwrap.py",
        remedy="Use an interpreter with its library as files (python.org, Debian, conda, pyenv), not in a zip",
    )


@contextmanager
def _pause_gc_for_pydoc_collection() -> Iterator[None]:
    """Pause cyclic garbage collection, which would take 3/4 of the time without being able to free syntax trees."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _unique_docstring_documents(sources: dict[str, SourceModule]) -> tuple[Document, ...]:
    """Return one document per id: that of a public module if there is one, otherwise of the first private module."""
    re_exported = public_python_names(sources)
    documents: dict[str, Document] = {}
    for source in sorted(sources.values(), key=lambda source: is_private_pydoc_name(source.name)):
        if is_private_pydoc_name(source.name):
            documents_of = _member_documents(source.tree.body, re_exported.get(source.name, {}))
        else:
            documents_of = _module_documents(source)
        for doc in documents_of:
            documents.setdefault(doc.id, doc)
    return tuple(documents[doc_id] for doc_id in sorted(documents))


def _module_documents(source: SourceModule) -> Iterator[Document]:
    if text := ast.get_docstring(source.tree):
        yield Document(id=source.name, title=source.name, text=text)
    names = [
        node.name
        for node in pydoc_definition_statements(source.tree.body)
        if isinstance(node, ast.ClassDef | _Function)
    ]
    yield from _member_documents(source.tree.body, {name: f"{source.name}.{name}" for name in names})


def _member_documents(body: list[ast.stmt], ids: dict[str, str], *, method: bool = False) -> Iterator[Document]:
    """Yield documents of the definitions in ``body`` whose names are keys of ``ids``, a mapping from name to id."""
    for node in pydoc_definition_statements(body):
        if (
            not isinstance(node, ast.ClassDef | _Function)
            or node.name not in ids
            or is_private_pydoc_name(ids[node.name])
        ):
            continue
        doc_id = ids[node.name]
        if isinstance(node, ast.ClassDef):
            yield from _class_documents(node, doc_id)
        elif text := ast.get_docstring(node):
            yield Document(id=doc_id, title=doc_id + _format_signature(node, method=method), text=text)


def _class_documents(node: ast.ClassDef, doc_id: str) -> Iterator[Document]:
    inner = [child for child in pydoc_definition_statements(node.body) if isinstance(child, ast.ClassDef | _Function)]
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

"""Runs for tests, from the ids of their documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rerank.types import Document, Query, Ranking, Run


def run_of(name: str, lists: Mapping[str, Iterable[str]] | None = None, /, **more: Iterable[str]) -> Run:
    """A run of one ranked list per query; a list is a string of one-letter documents, or any other series of ids."""
    all_lists = {**(lists or {}), **more}
    return Run(
        (Ranking.from_order(Query(id=q), [Document(id=d) for d in docs]) for q, docs in all_lists.items()), name=name
    )

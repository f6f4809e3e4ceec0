"""A tiny collection in memory and a cache folder, shared with the tests of first stages."""

from tests.retrieval.conftest import cache, make_corpus

__all__ = ["cache", "make_corpus"]

"""Scripted judges, shared with the tests of strategies."""

from tests.strategies.conftest import play

__all__ = ["play"]

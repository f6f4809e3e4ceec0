"""Tiny models with random weights, shared with the tests of backends."""

from tests.backends.conftest import _one_thread, tiny_model, tiny_tokenizer

__all__ = ["_one_thread", "tiny_model", "tiny_tokenizer"]

"""Without the framework, the error of an integration names the extra."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from rerank.errors import MissingPrerequisiteError


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("pyterrier", "pyterrier", "pyterrier"),
        ("dspy", "dspy", "dspy"),
    ],
)
def test_the_error_names_the_extra(module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"rerank.integrations.{module}", raising=False)
    for name in [*sys.modules, package]:
        if name.split(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPrerequisiteError, match=rf"pip install 'listrank\[{extra}\]'") as caught:
        import_module(f"rerank.integrations.{module}")
    assert package in str(caught.value)

"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.testing
from hypothesis import settings

# Machines are busy at times; how long a case takes says nothing about whether it is right. .ci/run asks for `ci`.
settings.register_profile("default", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# It keeps the class of sockets that it finds when it is imported, which in most tests is one that refuses.
if importlib.util.find_spec("uvloop"):
    import uvloop  # noqa: F401


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; its absence is a failure where it is asked for."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.fail(f"{folder} is not there, and this test needs it")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Keep the command line that Typer builds from our functions: building it takes longer than most commands."""
    with pytest.MonkeyPatch.context() as patch:
        built = functools.cache(typer.main.get_command)
        patch.setattr("typer.main.get_command", built)
        patch.setattr("typer.testing._get_command", built)
        yield

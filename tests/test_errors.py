"""The error tree: every message has its three parts, every class its exit code."""

from __future__ import annotations

import pytest

from rerank import errors


def test_message_joins_what_was_found_expected_and_to_do() -> None:
    error = errors.DataError("Found a cat.", expected="a dog", remedy="Feed it")
    assert str(error) == "Found a cat. expected a dog. Feed it"
    assert (error.found, error.expected, error.remedy) == ("Found a cat.", "a dog", "Feed it")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.ContextOverflowError, 2),
        (errors.MissingPrerequisiteError, 3),
        (errors.MissingResourceError, 4),
        (errors.DataError, 5),
        (errors.BackendError, 6),
        (errors.StorageError, 6),
        (errors.PartialFailureError, 7),
    ],
)
def test_exit_codes(kind: type[errors.RerankError], code: int) -> None:
    assert kind("x").exit_code == code


def test_unknown_name_suggests_the_nearest() -> None:
    error = errors.UnknownNameError("method", "slidng", ["sliding", "fullrank"])
    assert error.suggestions == ["sliding"]
    assert "Did you mean 'sliding'?" in str(error)
    assert error.exit_code == 2


def test_unknown_name_without_choices() -> None:
    assert "none is installed" in str(errors.UnknownNameError("method", "x", []))

"""The error tree: every message has its three parts, every class its exit code."""

from __future__ import annotations

import pytest

from rerank import errors


def test_message_joins_what_was_found_expected_and_to_do() -> None:
    error = errors.DataError("Found a cat.", expected="a dog", remedy="Feed it")
    assert str(error) == "Found a cat; expected a dog. Feed it"
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
    assert str(errors.UnknownNameError("method", "x", [])) == "Unknown method 'x'. None is installed"
    assert str(errors.UnknownNameError("option", "x", [], if_none="There are none")).endswith("There are none")


def test_unknown_name_lists_a_dozen_and_suggests_from_all() -> None:
    names = [f"q{n:03}" for n in range(100)]
    error = errors.UnknownNameError("query", "q0999", names)
    assert "one of: q000, q001" in str(error)
    assert "q011 and 88 more" in str(error)
    assert "q012" not in str(error)
    assert "q099" in error.suggestions
    assert " more" not in str(errors.UnknownNameError("query", "x", names[:12]))


def test_values_are_shortened() -> None:
    assert errors.error_repr("x") == "'x'"
    assert errors.error_repr("x" * 58) == repr("x" * 58)
    assert errors.error_repr("x" * 99) == "'" + "x" * 58 + "…"
    assert len(errors.error_repr("x" * 99, 10)) == 10

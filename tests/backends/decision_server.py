"""A decision server on loopback that answers in the documented form, well or badly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.backends.faulty_server import Act, FaultyServer, raw

#: Answers a question, given its position and body.
Decide = Callable[[int, dict[str, Any]], Any]


def probability_of(text: str) -> float:
    """Return a probability that grows with the number in the last word of a text."""
    digits = [word.rstrip(".") for word in text.split() if word.rstrip(".").isdigit()]
    return (int(digits[-1]) + 1) / 1000 if digits else 0.5


def decide(position: int, question: dict[str, Any]) -> dict[str, Any]:
    """Answer well: the larger the number in a passage, the more probable it is."""
    named = {"name": question.get("name")}
    if question["type"] == "predicate":
        passage = question["instructions"].split("Does the passage")[0]
        return {"type": "predicate", **named, "probability": probability_of(passage)}
    is_choice = question["type"] == "choice"
    options = question["choices" if is_choice else "levels"]
    weights = [probability_of(option.get("description", option.get("label", ""))) for option in options]
    shares = [weight / sum(weights) for weight in weights]
    pairs = zip(options, shares, strict=True)
    if not is_choice:
        levels = [{"label": option["label"], "value": n, "probability": p} for n, (option, p) in enumerate(pairs)]
        return {"type": "score", **named, "score": 1.5, "confidence": max(shares), "probabilities": levels}
    best = options[shares.index(max(shares))]["value"]
    values = [{"value": option["value"], "probability": p} for option, p in pairs]
    return {"type": "choice", **named, "choice": best, "confidence": max(shares), "probabilities": values}


def decided(
    decide: Decide = decide, change: Callable[[list[Any]], list[Any]] = lambda answers: answers, **more: Any
) -> Callable[[Any], Act]:
    """Answer all questions of a call; ``change`` spoils the list of answers, and ``more`` replaces fields."""

    def answer(body: dict[str, Any]) -> Act:
        answers = [decide(position, question) for position, question in enumerate(body["questions"])]
        details = {"input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 0}}
        output = {"output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}}
        usage = {"input_tokens": 1001, **details, **output, "total_tokens": 1004}
        return raw({"model": "m", "answers": change(answers), "usage": usage, **more})

    return answer


def open_decision_server(*acts: Any) -> FaultyServer:
    """Return a server whose only endpoint is that of decisions."""
    return FaultyServer(acts, path="/v1/decisions")

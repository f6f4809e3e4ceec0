"""Convert requests with a `DecisionTask` to an input and a question about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rerank.tasks import DecisionTask, Request
from rerank.tasks.dialects.decisions import (
    ChoiceQuestion,
    DecisionChoice,
    DecisionLevel,
    DecisionQuestion,
    PredicateQuestion,
    ScoreQuestion,
)

#: Maximum number of questions in a call.
MAX_QUESTIONS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAndQuestion:
    """A request to a language model, converted to the form that a decision API expects.

    Attributes:
        input: The messages to which the question refers.
        question: The question.
    """

    input: list[dict[str, Any]]
    question: DecisionQuestion


def split_prompt_into_question(request: Request, task: DecisionTask) -> InputAndQuestion:
    """Divide a prompt into the input, which other requests may share, and the question.

    If the prompt contains text before its passages, such as the query, this text is the input, and the passages are a
    part of the question: of its instructions, or as the descriptions of its choices. Otherwise the passages are the
    input.

    Args:
        request: The request. Turns of its prompt after the last user turn are omitted.
        task: The task of the request.
    """
    last = max(index for index, turn in enumerate(request.prompt) if turn.role in ("user", "text"))
    text = request.prompt[last].content
    first, end = task.spans[0][0], task.spans[-1][1]
    passages: list[str | None] = [text[start:stop] for start, stop in task.spans]
    if text[:first].strip():
        shared = text[:first].rstrip()
        instructions = text[task.tail :] if task.question == "choice" else text[first:]
    else:
        shared, instructions = text[:end], text[end:]
        passages = [None] * len(passages)
    turns = [(turn.role, turn.content) for turn in request.prompt[:last]]
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", shared))]
    return InputAndQuestion(input=messages, question=_make_question(task, instructions.strip(), passages))


def _make_question(task: DecisionTask, instructions: str, passages: list[str | None]) -> DecisionQuestion:
    if task.question == "predicate":
        return PredicateQuestion(type="predicate", instructions=instructions)
    if task.question == "choice":
        choices = [
            DecisionChoice(value=option, description=passage)
            for option, passage in zip(task.options, passages, strict=True)
        ]
        return ChoiceQuestion(type="choice", instructions=instructions, choices=choices)
    levels = [DecisionLevel(label=option) for option in reversed(task.options)]
    return ScoreQuestion(type="score", instructions=instructions, levels=levels)

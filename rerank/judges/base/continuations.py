"""Make requests for the log-probabilities of continuations; shared by the judges that use logits."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.errors import ContextOverflowError
from rerank.judges.base import PromptJudge
from rerank.prompts.escaping import escape_turn_marks
from rerank.prompts.passages import collapse_passage_whitespace
from rerank.prompts.template import PromptTemplate
from rerank.tasks import ContinuationTask, DecisionTask, Request, Sampling
from rerank.tasks.kinds import MAX_OPTIONS
from rerank.types import Window


def make_judge_continuation_request(
    judge: PromptJudge, window: Window, continuations: Sequence[str], *, labels: Sequence[str] | None = None
) -> Request:
    """Return a request for the log-probability of each continuation of a window's prompt.

    Passages are truncated so that the prompt and the longest continuation fit. The task is of the first type in
    ``judge.needs``: `ContinuationTask` for single tokens, or `LikelihoodTask` for longer texts. If the prompt is plain
    text without chat turns, the continuations begin with a space. If the backend supports only `DecisionTask`, the task
    is a `DecisionTask` with the type of question that the judge declares.

    Args:
        judge: The judge, whose backend, template, budget and limits are used.
        window: The documents of the prompt.
        continuations: Texts that may follow the prompt.
        labels: Identifiers of the passages, if they are not 1, 2, ...

    Raises:
        ContextOverflowError: The window does not fit in the context even with passages at their minimum length.
    """
    if DecisionTask in judge.needs and judge.supports(DecisionTask) and not judge.supports(judge.needs[0]):
        return _make_judge_decision_request(judge, window, labels or continuations, labels=labels)
    if judge.template.plain_text:
        continuations = [f" {text}" for text in continuations]
    longest = max(judge.backend.tokens.lengths(list(continuations)), default=0)
    limits = judge.limits
    reply_tokens = longest + limits.thinking_tokens
    fitted = judge.budget.fit(judge.template, window, reply_tokens=reply_tokens, labels=labels)
    sampling = Sampling(
        max_tokens=longest, temperature=limits.temperature, seed=limits.seed, thinking=limits.thinking_tokens
    )
    task: ContinuationTask = judge.needs[0](continuations=tuple(continuations))
    return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task, dropped=fitted.dropped)


def _make_judge_decision_request(
    judge: PromptJudge, window: Window, options: Sequence[str], *, labels: Sequence[str] | None
) -> Request:
    """Return a request for the log-probability of each option as the answer to the judge's question."""
    if len(options) > MAX_OPTIONS:
        raise ContextOverflowError(
            f"The question has {len(options)} options, and decision APIs accept at most {MAX_OPTIONS}",
            remedy="Lower --depth, or use --method sliding",
        )
    fitted = judge.budget.fit(judge.template, window, reply_tokens=0, labels=labels)
    template = judge.template.with_instruction(window.query.instruction)
    query = escape_turn_marks(collapse_passage_whitespace(window.query.text), judge.budget.turn_marks)
    spans, tail = template.spans(query, fitted.passages, labels=labels)
    task = DecisionTask(question=judge.question, options=tuple(options), spans=spans, tail=tail)
    return Request(
        prompt=fitted.prompt, sampling=Sampling(max_tokens=0), window=window, task=task, dropped=fitted.dropped
    )


def judge_identifier_continuations(labels: Sequence[str], template: PromptTemplate) -> list[str]:
    """Return, for each identifier, the beginning of a completion that starts with it.

    This is ``A`` if the prompt ends with the opening bracket, else ``[A``. The closing bracket is omitted, so that a
    letter that is a single token remains one.
    """
    has_bracket = template.reply_prefix.endswith("[")
    return [label if has_bracket else f"[{label}" for label in labels]

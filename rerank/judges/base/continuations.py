"""Make requests for the log-probabilities of continuations; shared by the judges that use logits."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.judges.base import PromptJudge
from rerank.prompts.template import PromptTemplate
from rerank.tasks import ContinuationTask, Request, Sampling
from rerank.types import Window


def make_judge_continuation_request(
    judge: PromptJudge, window: Window, continuations: Sequence[str], *, labels: Sequence[str] | None = None
) -> Request:
    """Return a request for the log-probability of each continuation of a window's prompt.

    Passages are truncated so that the prompt and the longest continuation fit. The task is the first one that the
    judge needs: `ContinuationTask` for single tokens, or `LikelihoodTask` for longer texts. After a plain text, they
    begin with a space.

    Args:
        judge: Supplies the backend, template, budget and limits.
        window: The documents of the prompt.
        continuations: Texts that may follow the prompt.
        labels: Identifiers of the passages, if they are not 1, 2, ...

    Raises:
        ContextOverflowError: The window does not fit in the context even with passages at their minimum length.
    """
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


def judge_identifier_continuations(labels: Sequence[str], template: PromptTemplate) -> list[str]:
    """Return, for each identifier, the beginning of a completion that starts with it.

    This is ``A`` if the prompt ends with the opening bracket, else ``[A``. The closing bracket is omitted, so that a
    letter that is a single token remains one.
    """
    has_bracket = template.reply_prefix.endswith("[")
    return [label if has_bracket else f"[{label}" for label in labels]

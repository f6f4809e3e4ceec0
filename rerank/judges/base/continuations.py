"""Questions that are answered by how likely some continuations are: what the judges that read logits share."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.judges.base import Asking
from rerank.prompts.template import PromptTemplate
from rerank.tasks import ContinuationTask, Request, Sampling
from rerank.types import Window


def weighing(
    judge: Asking, window: Window, continuations: Sequence[str], *, labels: Sequence[str] | None = None
) -> Request:
    """Ask how likely each continuation of a window's prompt is, passages cut so that prompt and the longest one fit.

    The question is of the first kind that the judge needs: about single tokens, or about longer texts.

    Args:
        judge: Who asks: its backend, template, budget and limits count.
        window: What is asked about.
        continuations: What could follow the prompt.
        labels: The passages' identifiers, if they are not 1, 2, ...

    Raises:
        ContextOverflowError: It does not fit the context even with its passages at the floor.
    """
    longest = max(judge.backend.tokens.lengths(list(continuations)), default=0)
    limits = judge.limits
    room = longest + limits.thinking_tokens
    fitted = judge.budget.fit(judge.template, window, reply_tokens=room, labels=labels)
    sampling = Sampling(
        max_tokens=longest, temperature=limits.temperature, seed=limits.seed, thinking=limits.thinking_tokens
    )
    task: ContinuationTask = judge.needs[0](continuations=tuple(continuations))
    return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task)


def first_marks(labels: Sequence[str], template: PromptTemplate) -> list[str]:
    """How an answer goes on that begins with each identifier: ``A``, or ``[A`` where the prompt gives no bracket.

    What closes the identifier is left out, so that letters of one token stay one token.
    """
    begun = template.reply_prefix.endswith("[")
    return [label if begun else f"[{label}" for label in labels]

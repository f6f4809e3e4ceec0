"""The attention judge: passages are ordered by the attention that the end of the prompt gives them. Nothing is written.

Source: in-context reranking (ICR), Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642. How the numbers are read off a
model is the backend's business; which heads are worth reading is in `rerank.judges.attention.heads`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rerank.errors import UsageError
from rerank.judges.attention.heads import HeadList, open_heads
from rerank.judges.base import Verdict, Whole, by_score, failed, z_scores
from rerank.prompts.passages import one_line
from rerank.tasks import AttentionTask, Reply, Request, Sampling
from rerank.types import Window

#: What is asked instead of the query, to see what passages get anyway.
NULL_QUERY = "N/A"


@dataclass(frozen=True, kw_only=True)
class Attention(Whole):
    """Order passages by s_i = sum over their tokens t of (attention of t from the query - from a null query).

    Attention of t: the sum over layers and heads of the mean over the rows that ask, which are those of the instruction
    and the query behind the passages. Passages are shown worst first, so that the first stage's best stands next to the
    query.

    Attributes:
        heads: Which heads count: a file that ``rerank heads select`` wrote, ``qrhead`` or ``core`` for the published
            list of the model at hand, or nothing for all heads.
        layers: First and last layer that count, as ``8-15``, from 0; nothing for all. Layers above the last one are not
            run.
        calibrate: Take off what the null query gives, and leave out each passage's tokens that fall far below its mean.
        best_first: Show the first stage's best passage first instead of last.
        first_stage: Add the first stage's score, this many times: both as z-scores within the window, that of attention
            of its logarithm where all scores are above 0. Where the first stage's scores are not known, attention
            decides alone, and the verdict says so.

    Raises:
        UsageError: A negative ``first_stage``.
    """

    needs = (AttentionTask,)
    asking_only = frozenset({"heads", "layers"})
    prompt = "icr_qa"

    heads: str = ""
    layers: str = ""
    calibrate: bool = True
    best_first: bool = False
    first_stage: float = 0.0

    def __post_init__(self) -> None:
        """Read the heads, so that a missing file is found before the first call."""
        super().__post_init__()
        band(self.layers)
        if self.first_stage < 0:
            raise UsageError(f"first_stage={self.first_stage}", expected="a weight of at least 0")
        _ = self._heads

    @cached_property
    def _heads(self) -> HeadList | None:
        return open_heads(self.heads, self.backend.identity) if self.heads else None

    @property
    def identity(self) -> Mapping[str, str]:
        """The heads themselves: the same file name may hold others tomorrow."""
        return {"heads": self._heads.digest} if self._heads else {}

    def requests(self, window: Window) -> list[Request]:
        """One call, its passages cut so that the prompt fits."""
        return [self.request(window)]

    def request(self, window: Window, *, per_head: bool = False) -> Request:
        """The call; ``per_head`` asks for the numbers of every head apart, as choosing heads needs them."""
        shown = window if self.best_first else _turned(window)
        fitted = self.budget.fit(self.template, shown, reply_tokens=self._null_excess(window.query.text))
        spans, tail = self.template.spans(one_line(window.query.text), fitted.passages)
        listed = None if per_head else self._heads
        task = AttentionTask(
            spans=spans if self.best_first else spans[::-1],  # in the window's order, wherever they are shown
            tail=tail,
            null=self.template.render(NULL_QUERY, fitted.passages) if self.calibrate else (),
            heads=listed.heads if listed else (),
            weights=listed.weights if listed else (),
            length_power=listed.length_power if listed else 0.0,
            layers=band(self.layers),
            per_head=per_head,
        )
        return Request(prompt=fitted.prompt, sampling=Sampling(max_tokens=0), window=window, task=task)

    def _null_excess(self, query: str) -> int:
        """Tokens by which the null query can be longer than the query: its prompt has to fit, too."""
        if not self.calibrate:
            return 0
        null, asked = self.backend.tokens.lengths([NULL_QUERY, one_line(query)])
        return max(0, null - asked + 1)

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """The order of falling scores."""
        return failed(replies, len(window)) or self._ordered(replies[0].scores, window)

    def _ordered(self, scores: Sequence[float], window: Window) -> Verdict:
        if not self.first_stage or len(scores) != len(window):
            return by_score(scores, len(window))
        if not window.scores:
            alone = by_score(scores, len(window))
            return replace(alone, detail="no first-stage scores were given, so attention decided alone")
        positive = all(score > 0 for score in scores)
        mine = z_scores([math.log(score) for score in scores] if positive else scores)
        theirs = z_scores(window.scores)
        return by_score([a + self.first_stage * b for a, b in zip(mine, theirs, strict=True)], len(window))


def _turned(window: Window) -> Window:
    return replace(window, docs=window.docs[::-1], scores=window.scores[::-1])


def band(layers: str) -> tuple[int, int] | None:
    """``8-15`` as numbers.

    Raises:
        UsageError: It is no such thing.
    """
    if not layers:
        return None
    found = re.fullmatch(r"(\d+)-(\d+)", layers.strip())
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError(f"Layers {layers!r}", expected="the first and the last, counted from 0, as in layers=8-15")
    return int(found[1]), int(found[2])

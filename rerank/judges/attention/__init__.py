"""The attention judge: orders passages by the attention that they receive from the query, without generating text.

Source: in-context reranking (ICR), Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642. The backend computes the
attention (`rerank.lm.icr_scoring`); `rerank.judges.attention.heads` reads and writes lists of attention heads.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rerank.errors import ContextOverflowError, PartialFailureError, UsageError
from rerank.judges.attention.evidence import EvidenceSpan, EvidenceUnit, find_prefixes, score_passage
from rerank.judges.attention.heads import HeadList, open_attention_heads
from rerank.judges.base import FAILURES, ListwiseJudge, ScoreKind, Verdict, failed_verdict
from rerank.prompts.budget import FittedPrompt, PromptBudget
from rerank.prompts.passages import collapse_whitespace
from rerank.tasks import AttentionTask, Reply, Request, Sampling
from rerank.tasks.backends import model_base_of_backend
from rerank.tasks.kinds import read_token_scores
from rerank.types import Window

#: The content-free query whose attention is subtracted (ICR's calibration).
NULL_QUERY = "N/A"


@dataclass(frozen=True, kw_only=True)
class Attention(ListwiseJudge):
    """A judge that orders passages by calibrated attention.

    s_i = sum over the tokens t of passage i of (a(t | query) - a(t | null query)), where a(t) is the attention weight
    of t, summed over layers and heads and averaged over the attending tokens. The attending tokens are those of the
    instruction and the query after the passages. Passages are shown in reverse order, so the first stage's best passage
    is next to the query.
    """

    needs = (AttentionTask,)
    request_options = frozenset({"heads", "layers"})
    prompt = "icr_qa"
    sorts_by_score = True

    #: The attention heads to use: the path of a file that ``rerank heads select`` has written; ``qrhead`` or ``core``
    #: for the published list of the model; or empty for all heads.
    heads: str = ""
    #: First and last layer to use, counted from 0, such as ``8-15``; empty for all. Layers above the last one are not
    #: computed.
    layers: str = ""
    #: Subtract the attention that the tokens receive from the null query, and drop tokens far below the mean of their
    #: passage.
    calibrate: bool = True
    best_first: bool = False  # show the first stage's best passage first instead of last

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_layers(self.layers)
        _ = self._heads  # a missing file is reported before the first request

    @property
    def score_kind(self) -> ScoreKind:
        return ScoreKind("attention minus that of a null query" if self.calibrate else "log attention", "within")

    @cached_property
    def _heads(self) -> HeadList | None:
        base = model_base_of_backend(self.backend)
        return open_attention_heads(self.heads, self.backend.identity, base) if self.heads else None

    @property
    def has_heads_of_other_weights(self) -> bool:
        """Whether the heads were selected with other weights of the same published model."""
        path, heads = Path(self.heads), self._heads
        return heads is not None and path.is_file() and not heads.fits_exactly(self.backend.identity, path.parent)

    @property
    def identity(self) -> Mapping[str, str]:
        # two files with the same name may contain different heads
        return {"heads": self._heads.digest} if self._heads else {}

    def make_requests(self, window: Window) -> list[Request]:
        return [self.request(window)]

    def request(self, window: Window, *, per_head: bool = False, per_token: bool = False) -> Request:
        """Return the request for a window, with a score for every token if they are needed for evidence."""
        fitted = self._fit(window, self._evidence_budget if per_token else self.budget)
        template = self.template.with_instruction(window.query.instruction)
        spans, tail = template.spans(collapse_whitespace(window.query.text), fitted.passages)
        heads = None if per_head else self._heads
        task = AttentionTask(
            spans=spans if self.best_first else spans[::-1],  # in window order, not in prompt order
            tail=tail,
            null=template.render(NULL_QUERY, fitted.passages) if self.calibrate else (),
            heads=heads.heads if heads else (),
            weights=heads.weights if heads else (),
            length_power=heads.length_power if heads else 0.0,
            layers=parse_layers(self.layers),
            per_head=per_head,
            per_token=per_token,
        )
        dropped = fitted.dropped if self.best_first else fitted.dropped[::-1]
        return Request(prompt=fitted.prompt, sampling=Sampling(max_tokens=0), window=window, task=task, dropped=dropped)

    def _fit(self, window: Window, budget: PromptBudget) -> FittedPrompt:
        """Return the prompt of a window, with passages truncated so that it fits, also with the null query."""
        excess = 0
        if self.calibrate:
            lengths = self.backend.tokens.lengths([NULL_QUERY, collapse_whitespace(window.query.text)])
            # One additional token, since the tokens of a query may merge differently with the text around it.
            excess = max(0, lengths[0] - lengths[1] + 1)
        # The last passage is nearest to the query, so the first stage's best is shown last.
        backwards = replace(window, docs=window.docs[::-1], scores=window.scores[::-1])
        return budget.fit(self.template, window if self.best_first else backwards, reply_tokens=excess)

    @cached_property
    def _evidence_budget(self) -> PromptBudget:
        """The budget for evidence, which truncated text has none of, so ``max_passage_tokens`` does not apply."""
        return PromptBudget(
            self.backend.tokens, floor=self.limits.min_passage_tokens, context_size=self.limits.context_size
        )

    def evidence_windows(self, window: Window) -> list[Window]:
        """Divide a window into windows that fit in the context without truncation, or of one document, truncated."""
        try:
            is_whole = not self._fit(window, self._evidence_budget).dropped
        except ContextOverflowError:
            if len(window) == 1:
                raise
            is_whole = False
        if is_whole or len(window) == 1:
            return [window]
        middle = (len(window) + 1) // 2
        halves = (Window(window.query, docs) for docs in (window.docs[:middle], window.docs[middle:]))
        return [part for half in halves for part in self.evidence_windows(half)]

    def evidence_request(self, window: Window) -> Request:
        """Return the request whose reply `evidence` parses. Its passages are not limited by ``max_passage_tokens``."""
        return self.request(window, per_token=True)

    def evidence(
        self, window: Window, reply: Reply, unit: EvidenceUnit = "sentence"
    ) -> tuple[tuple[EvidenceSpan, ...], ...]:
        """Return the sentences or words of each document, in window order, with their shares of the attention.

        `select_evidence` selects the units with large shares. ``reply`` is that to the `evidence_request`. The rest of
        a truncated text, which the prompt does not show, has no units.
        """
        if reply.finish in ("error", "refused"):
            reason = reply.error or "the request was refused"
            raise PartialFailureError(f"The evidence could not be extracted: {reason}")
        passages = self._fit(window, self._evidence_budget).passages
        template = self.template.with_instruction(window.query.instruction)
        prefixes = find_prefixes(template, collapse_whitespace(window.query.text), passages)
        step = 1 if self.best_first else -1
        shown = zip(window.docs, passages[::step], prefixes[::step], strict=True)
        rows = read_token_scores(reply.text, reply.scores, len(window))
        return tuple(
            score_passage(document, passage, prefix, tokens, unit)
            for (document, passage, prefix), tokens in zip(shown, rows, strict=True)
        )

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        if failure := failed_verdict(replies, len(window)):
            return failure
        attention = replies[0].scores
        verdict = self.rank_by_score(attention, window)
        if verdict.status in FAILURES:
            return verdict
        # The scores in the verdict come from the model alone, even if the order includes first-stage scores.
        scores = attention if self.calibrate else tuple(math.log(a) if a > 0 else None for a in attention)
        return replace(verdict, scores=scores)

    def scores_to_combine(self, scores: Sequence[float]) -> Sequence[float]:
        """Return log attention if all scores are positive, else attention."""
        return [math.log(score) for score in scores] if all(score > 0 for score in scores) else scores


def parse_layers(layers: str) -> tuple[int, int] | None:
    """Parse a range of layers such as ``8-15``; return None, which means all layers, for an empty string."""
    if not layers:
        return None
    match = re.fullmatch(r"(\d+)-(\d+)", layers.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"layers is {layers!r}", expected="the first and the last layer, from 0, as in layers=8-15")
    return int(match[1]), int(match[2])

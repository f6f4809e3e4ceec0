"""Listwise judges: the model generates the order of a window, its best document or scores, or its logits decide.

Sources: constrained and free generation follow RankGPT and its successors; `Fuse` is LiT5-Distill, Tamber et al. 2023,
arXiv 2312.16098, a listwise form of fusion in the decoder (Izacard and Grave, EACL 2021, arXiv 2007.01282); `Logits` is
FIRST, Reddy et al., EMNLP 2024, arXiv 2406.15657, section 3; `Pick` is setwise prompting, Zhuang et al., SIGIR 2024,
arXiv 2310.09497, section 3, and, for two documents, pairwise ranking prompting, Qin et al., NAACL Findings 2024, arXiv
2306.17563, section 3; `Rate` is GroupRank, Sun et al. 2025, arXiv 2511.11653, and Reranker/rerank_groupwise.py in
github.com/AQ-MedAI/Diver; `Select` is SetR, Lee et al., ACL 2025, arXiv 2507.06838.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from rerank.errors import UsageError, ensure
from rerank.judges.base import (
    FAILURES,
    IDENTIFIER_SCORES,
    SELECTION,
    ListwiseJudge,
    ScoreKind,
    Verdict,
    continuation_request,
    failed_verdict,
)
from rerank.parsing import parse_identifier_scores, parse_permutation, parse_selection
from rerank.prompts.passages import Alphabet, make_identifiers, single_token_letters
from rerank.tasks import (
    ContinuationTask,
    DecisionTask,
    FusionTask,
    GenerationTask,
    PermutationTask,
    Reply,
    Request,
    Sampling,
)
from rerank.types import Window

#: Number of reply tokens in addition to the list of identifiers, since a model may add a line break or a word.
SPARE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Generate(ListwiseJudge):
    """A judge that lets the model generate the order of a window, constrained or as text that is parsed."""

    needs: ClassVar[tuple[type[Any], ...]] = (PermutationTask, GenerationTask)

    #: Allow only identifiers that have not been generated yet, if the backend supports constrained decoding; no reply
    #: can then be malformed. Otherwise the completion is parsed.
    constrain: bool = True
    #: ``numbers``, which published models were trained with, or ``letters`` of one token each.
    identifiers: Alphabet = "numbers"
    _reply_tokens: dict[tuple[str, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def suggest_prompt(cls, options: Mapping[str, str]) -> str:
        return "listwise_letters" if options.get("identifiers") == "letters" else ""

    @cached_property
    def score_kind(self) -> ScoreKind | None:
        # given the previous choices; free text has no scores
        is_constrained = self.constrain and self.supports(PermutationTask)
        return ScoreKind("log-probability of the choice", "within") if is_constrained else None

    @property
    def identity(self) -> Mapping[str, str]:
        return _letters(self) if self.identifiers == "letters" else {}

    def make_requests(self, window: Window) -> list[Request]:
        labels = make_identifiers(self.identifiers, len(window), self.backend.tokens)
        reply_tokens = self.reply_tokens(labels, window.depth)
        return [_generation_request(self, window, labels, reply_tokens, window.depth, self.constrain)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        labels = make_identifiers(self.identifiers, len(window), self.backend.tokens)
        verdict = parse_verdict(replies[0], len(window), depth=window.depth, labels=labels)
        choices = replies[0].scores
        if verdict.status in FAILURES or not choices or len(choices) > len(window):
            return verdict
        scores: list[float | None] = [None] * len(window)  # None for documents that were not chosen
        for position, score in zip(verdict.order, choices, strict=False):
            scores[position] = score
        return replace(verdict, scores=tuple(scores))

    def reply_tokens(self, labels: Sequence[str], depth: int) -> int:
        """Return the maximum number of tokens of a reply: the ``depth`` longest identifiers, and `SPARE_TOKENS`."""
        key = (*labels, str(depth))
        if key not in self._reply_tokens:
            # Later identifiers are at least as long as earlier ones, so any order of ``depth`` identifiers fits.
            ranking = " > ".join(f"[{label}]" for label in labels[len(labels) - depth :])
            self._reply_tokens[key] = self.backend.tokens.lengths([ranking])[0] + SPARE_TOKENS
        return self._reply_tokens[key]


@dataclass(frozen=True, kw_only=True)
class Fuse(Generate):
    """A judge whose request has one text per passage, which an encoder reads separately; the decoder writes the order.

    Each text has its passage's identifier; the reply is parsed as in `Generate`. The context limits the length of each
    text, not the size of the window: each passage is truncated so that its text fits. Constrained decoding is not
    available.
    """

    needs = (FusionTask,)
    prompt = "lit5"

    constrain: bool = False

    @classmethod
    def suggest_prompt(cls, options: Mapping[str, str]) -> str:
        return cls.prompt

    def make_requests(self, window: Window) -> list[Request]:
        labels = make_identifiers(self.identifiers, len(window), self.backend.tokens)
        fitted = [
            self.budget.fit(self.template, Window(window.query, (doc,)), reply_tokens=0, labels=[label])
            for doc, label in zip(window.docs, labels, strict=True)
        ]
        prompt = tuple(turn for text in fitted for turn in text.prompt)
        dropped = tuple(sum(text.dropped) for text in fitted) if any(text.dropped for text in fitted) else ()
        limits = self.limits
        sampling = Sampling(
            max_tokens=self.reply_tokens(labels, window.depth), temperature=limits.temperature, seed=limits.seed
        )
        return [Request(prompt=prompt, sampling=sampling, window=window, task=FusionTask(), dropped=dropped)]


@dataclass(frozen=True, kw_only=True)
class Logits(ListwiseJudge):
    """A judge that orders a window by decreasing log P(identifier | prompt), without generating text.

    Before a listwise model generates its first identifier, its logits already rank all identifiers in almost the same
    order as the ranking that it would generate. Ties keep the input order. Identifiers are letters of one token each: A
    to Z, then pairs. If a window has more documents than the tokenizer has such identifiers, a `UsageError` states the
    number of identifiers. Each window needs one request and one forward pass.
    """

    needs = (ContinuationTask, DecisionTask)
    question = "choice"
    prompt = "listwise_letters"
    score_kind = IDENTIFIER_SCORES
    sorts_by_score = True

    @property
    def identity(self) -> Mapping[str, str]:
        return _letters(self)

    def make_requests(self, window: Window) -> list[Request]:
        return [_identifier_request(self, window)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return failed_verdict(replies, len(window)) or self.rank_by_score(replies[0].scores, window)


@dataclass(frozen=True, kw_only=True)
class Pick(ListwiseJudge):
    """A judge that asks which document of a window is the most relevant. It makes one request per window.

    A window without a usable reply is a failure. The window keeps its order, so its first document counts as the best.
    """

    needs = (ContinuationTask, DecisionTask, PermutationTask, GenerationTask)
    question = "choice"
    prompt = "pick"

    #: ``likelihood`` orders the whole window by log P(identifier | prompt); ties keep their order. ``generation`` lets
    #: the model generate one identifier; this document comes first, and the others keep their order.
    by: Literal["likelihood", "generation"] = "likelihood"
    #: With ``generation``, allow only an identifier, if the backend supports constrained decoding. Models that were
    #: trained to generate more, such as tags, need ``false``; the completion is then parsed.
    constrain: bool = True
    identifiers: Alphabet = "letters"  # ``letters`` of one token each, or ``numbers``, which need ``generation``

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sorts_by_score and self.identifiers == "numbers":
            raise UsageError(
                "by=likelihood needs identifiers of one token each, but identifiers=numbers may have several tokens",
                expected="identifiers=letters, or by=generation",
            )
        tasks = (ContinuationTask, DecisionTask) if self.sorts_by_score else (PermutationTask, GenerationTask)
        if not any(map(self.supports, tasks)):
            model = self.backend.identity.get("model", "")
            raise UsageError(
                f"The backend of model {model!r} does not support by={self.by}",
                expected=f"by={'generation' if self.sorts_by_score else 'likelihood'}, which the backend supports",
            )

    @property
    def score_kind(self) -> ScoreKind | None:
        return IDENTIFIER_SCORES if self.sorts_by_score else None

    @property
    def sorts_by_score(self) -> bool:
        return self.by == "likelihood"

    @property
    def identity(self) -> Mapping[str, str]:
        return _letters(self) if self.identifiers == "letters" else {}

    def make_requests(self, window: Window) -> list[Request]:
        if self.sorts_by_score:
            return [_identifier_request(self, window)]
        labels = make_identifiers(self.identifiers, len(window), self.backend.tokens)
        reply_tokens = max(self.backend.tokens.lengths([f"[{label}]" for label in labels])) + SPARE_TOKENS
        return [_generation_request(self, window, labels, reply_tokens, 1, self.constrain)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        count, reply = len(window), replies[0]
        if self.sorts_by_score:
            return failed_verdict(replies, count) or self.rank_by_score(reply.scores, window)
        # after a prompt that ends with "[", a model may stop after the letter
        text = reply.text.rstrip()
        if reply.finish == "stop" and "[" in text and "]" not in text:
            reply = replace(reply, text=f"{text}]")
        labels = make_identifiers(self.identifiers, count, self.backend.tokens)
        verdict = parse_verdict(reply, count, depth=1, labels=labels)
        if verdict.status in FAILURES:
            return verdict
        best = verdict.order[0]
        return replace(verdict, order=(best, *(position for position in range(count) if position != best)))


def _letters(judge: ListwiseJudge) -> dict[str, str]:
    """Return the letters that the backend's tokenizer allows as identifiers, since replies are parsed with them."""
    return {"letters": " ".join(single_token_letters(judge.backend.tokens))}


def _identifier_request(judge: ListwiseJudge, window: Window) -> Request:
    """Return the request for the log-probability of each letter at the start of the completion.

    A continuation is ``A`` if the prompt ends with the opening bracket, else ``[A``. The closing bracket is omitted, so
    that a letter that is a single token remains one.
    """
    labels = make_identifiers("letters", len(window), judge.backend.tokens)
    has_bracket = judge.template.reply_prefix.endswith("[")
    continuations = [label if has_bracket else f"[{label}" for label in labels]
    return continuation_request(judge, window, continuations, labels=labels)


def _generation_request(
    judge: ListwiseJudge, window: Window, labels: Sequence[str], reply_tokens: int, count: int, constrain: bool
) -> Request:
    limits, thinking = judge.limits, judge.limits.thinking_tokens
    fitted = judge.budget.fit(judge.template, window, reply_tokens=reply_tokens + thinking, labels=labels)
    sampling = Sampling(max_tokens=reply_tokens, temperature=limits.temperature, seed=limits.seed, thinking=thinking)
    task: PermutationTask | GenerationTask = GenerationTask()
    if constrain and count and judge.supports(PermutationTask):
        task = PermutationTask(items=tuple(f"[{label}]" for label in labels), count=count)
    return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task, dropped=fitted.dropped)


def parse_verdict(
    reply: Reply, count: int, *, depth: int | None = None, labels: Sequence[str] | None = None
) -> Verdict:
    """Return the verdict on a window, parsed from a generated reply; a missing or unreadable reply is a failure.

    A reply with as many documents as were requested (``depth``; None for all) does not count as partial. ``labels`` are
    the identifiers of the documents, if they are not 1, 2, ...
    """
    if (reply.error or reply.finish == "error") and (failed := failed_verdict([reply], count)):
        return failed
    parsed = parse_permutation(reply.text, count, labels)
    status = "refused" if reply.finish == "refused" and not parsed.order else parsed.status
    if status == "partial" and depth is not None and len(parsed.order) >= depth:
        status = "repaired" if parsed.detail else "ok"
    return Verdict(order=parsed.order + parsed.missing, status=status, detail=parsed.detail)


#: Number of reply tokens per document: its identifier in brackets and quotation marks, a colon, a score and a comma.
_TOKENS_PER_SCORE = 12
#: Number of reply tokens for tags and for the marks around a JSON block.
_TOKENS_AROUND_SCORES = 32
#: Largest score in the prompt.
_BEST = 10.0


@dataclass(frozen=True, kw_only=True)
class Rate(ListwiseJudge):
    """A judge that divides a window into groups and lets the model write a JSON object of scores for each group.

    The window is shuffled before it is divided, so that documents do not compete only with their neighbours. The score
    of a document is its mean over the repeats; documents without a score keep their positions. The reply may contain
    an explanation before the scores, for which ``thinking_tokens`` tokens are added to its maximum length.
    """

    needs = (GenerationTask,)
    prompt = "group_rank"
    score_kind = ScoreKind("mean rating", "within")
    sorts_by_score = True
    _DEFAULTS: ClassVar[tuple[int, int]] = (20, 2)

    group: int = _DEFAULTS[0]  # maximum number of documents per request
    repeats: int = _DEFAULTS[1]  # number of times that the window is shuffled, divided and scored

    def __post_init__(self) -> None:
        super().__post_init__()
        found = f"group is {self.group} and repeats is {self.repeats}"
        ensure(min(self.group, self.repeats) >= 1, found, expected="at least 1 each")
        ensure(self.repeats <= 1000, found, expected="at most 1000 repeats")

    @classmethod
    def calls(cls, n: int) -> int:  # with the default options
        group, repeats = cls._DEFAULTS
        return repeats * -(-n // group)

    def make_requests(self, window: Window) -> list[Request]:
        requests = []
        for positions in self._groups(window):
            docs = tuple(window.docs[position] for position in positions)
            part = Window(window.query, docs, tuple(window.scores[position] for position in positions if window.scores))
            reply_tokens = _TOKENS_PER_SCORE * len(docs) + _TOKENS_AROUND_SCORES + self.limits.thinking_tokens
            fitted = self.budget.fit(self.template, part, reply_tokens=reply_tokens)
            sampling = Sampling(max_tokens=reply_tokens, temperature=self.limits.temperature, seed=self.limits.seed)
            requests.append(Request(prompt=fitted.prompt, sampling=sampling, window=part, dropped=fitted.dropped))
        return requests

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window by mean score, documents of a failed request by their other scores; it is then a failure."""
        ratings: list[list[float]] = [[] for _ in window.docs]
        for group, reply in zip(self._groups(window), replies, strict=True):
            for position, score in _parse_ratings(reply.text, len(group)).items():
                ratings[group[position]].append(score)
        means = [sum(given) / len(given) if given else None for given in ratings]
        verdict = self.rank_scored_documents(means, window)
        failure = failed_verdict(replies, len(window))
        return replace(failure, order=verdict.order, scores=verdict.scores) if failure else verdict

    def _groups(self, window: Window) -> list[list[int]]:
        """Return the positions of each request's documents, which depend only on the query, the seed and the sizes."""
        groups = []
        for repeat in range(self.repeats):
            positions = list(range(len(window)))
            random.Random(f"{self.limits.seed} {repeat} {window.query.id}").shuffle(positions)
            groups += [positions[start : start + self.group] for start in range(0, len(window), self.group)]
        return groups


def _parse_ratings(text: str, count: int) -> dict[int, float]:
    """Return scores by position; a reply that is a ranking is converted to evenly spaced scores, others to none."""
    if ratings := parse_identifier_scores(text, count):
        return ratings
    ranked = parse_permutation(text, count).order
    if len(ranked) < min(2, count):  # a single identifier may be the beginning of truncated scores
        return {}
    return {position: _BEST * (1 - rank / count) for rank, position in enumerate(ranked)}


@dataclass(frozen=True, kw_only=True)
class Select(ListwiseJudge):
    """A judge that lets the model select the smallest set of documents that together answer every part of the query.

    Selected documents come first, in the order of the reply, and have the score 1; the others keep their order and have
    the score 0. With sliding windows, documents selected in one window compete in the next, and their last one counts.
    """

    needs = (GenerationTask,)
    score_kind = SELECTION

    #: ``selection`` for only the selection, or ``requirements`` to let the model first write what the query requires
    #: and which passages provide it, with up to ``thinking_tokens`` tokens: the paper's "CoT & IRI".
    by: Literal["selection", "requirements"] = "selection"

    def __post_init__(self) -> None:
        super().__post_init__()
        found = "by=requirements, but thinking_tokens is 0, which leaves no room to write them"
        ensure(
            self.by == "selection" or self.limits.thinking_tokens,
            found,
            expected="at least 1, as in --thinking-tokens 500",
        )

    @classmethod
    def suggest_prompt(cls, options: Mapping[str, str]) -> str:
        return "select_requirements" if options.get("by") == "requirements" else "select"

    def requests(self, window: Window) -> list[Request]:
        # A window that does not fit is an error: the merging of its parts would select a set in each step.
        return self.make_requests(window)

    def make_requests(self, window: Window) -> list[Request]:
        limits, labels = self.limits, make_identifiers("numbers", len(window), self.backend.tokens)
        ranking = " > ".join(f"[{label}]" for label in labels)
        reply_tokens = self.backend.tokens.lengths([ranking])[0] + SPARE_TOKENS
        if self.by == "selection":
            return [_generation_request(self, window, labels, reply_tokens, 0, constrain=False)]
        reply_tokens += limits.thinking_tokens  # the requirements are part of the reply, not thoughts
        fitted = self.budget.fit(self.template, window, reply_tokens=reply_tokens, labels=labels)
        sampling = Sampling(max_tokens=reply_tokens, temperature=limits.temperature, seed=limits.seed)
        return [Request(prompt=fitted.prompt, sampling=sampling, window=window, dropped=fitted.dropped)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        count, (reply,) = len(window), replies
        parsed, failed = parse_selection(reply.text, count), failed_verdict(replies, count)
        if failed and (failed.status != "refused" or not parsed.order):
            return failed
        chosen = tuple(float(position in parsed.order) for position in range(count))
        order, scores = parsed.order + parsed.missing, () if parsed.status in FAILURES else chosen
        return Verdict(order=order, status=parsed.status, detail=parsed.detail, scores=scores)

"""Judges that score every document by itself: by logits of words, the query's likelihood, a head, or a cross-encoder.

Sources: `Score` is relevance generation, Liang et al. 2022, arXiv 2211.09110, and monoT5, Nogueira et al., EMNLP
Findings 2020, arXiv 2003.06713, who first ranked by the logits of two words; `WordLogit` is bge-reranker-v2-gemma,
FlagEmbedding (github.com/FlagOpen/FlagEmbedding), which reads the logit of "Yes", and zerank and Contextual AI's
rerankers do the same with other words; `Likelihood` is UPR, Sachan et al., EMNLP 2022, arXiv 2204.07496, and query
likelihood is due to Ponte and Croft, SIGIR 1998; `Relate` is monoBERT, Nogueira and Cho 2019, arXiv 1901.04085.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank.errors import UsageError, ensure
from rerank.judges.base import PointwiseJudge, PromptJudge, ScoreKind, Verdict, failed_verdict
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.prompts.passages import collapse_whitespace, escape_turn_marks
from rerank.tasks import (
    ContinuationTask,
    CrossEncoderTask,
    DecisionTask,
    HeadTask,
    LikelihoodTask,
    LogitTask,
    Reply,
    Request,
    Sampling,
)
from rerank.tasks.backends import traits
from rerank.types import Query, Window


@dataclass(frozen=True, kw_only=True)
class Score(PointwiseJudge):
    """A judge that scores a document by the log-odds of yes over no as the answer to "Is it relevant?".

    score = log P(yes | prompt) - log P(no | prompt), in (-inf, inf), and 0 if both are equally likely. If each
    word is a single token, this is the difference of their logits. It equals log(p / (1 - p)), where p is
    monoT5's softmax over the two logits, so the order is the same. Other spellings of the words are not considered.
    n documents need n requests.
    """

    needs = (ContinuationTask, DecisionTask)
    prompt = "pointwise"
    score_name = "log-odds of relevance"
    is_logit = True

    yes: str = "Yes"  # the word for a relevant document, spelled as at the start of a completion
    no: str = "No"  # the word for a document that is not relevant

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.yes or not self.no or self.yes == self.no:
            raise UsageError(f"yes={self.yes!r} and no={self.no!r} are empty or equal", expected="two different words")

    def continuations(self, query: Query) -> tuple[str, ...]:
        return self.yes, self.no

    def score(self, logs: Sequence[float]) -> float:
        yes, no = logs
        return yes - no


@dataclass(frozen=True, kw_only=True)
class WordLogit(PointwiseJudge):
    """A judge that scores a document by the logit of one word at the end of the prompt, before the softmax.

    The log-probability of the word would give another order, since the normaliser of the softmax differs between
    documents. n documents need n requests with one forward pass each.
    """

    needs = (LogitTask,)
    prompt = "pointwise"
    score_name = "logit of the word"
    is_logit = True

    word: str = "Yes"  # the word, which must be a single token

    def __post_init__(self) -> None:
        super().__post_init__()
        ensure(self.word, "word is empty", expected="the word whose logit is the score, such as Yes")

    def continuations(self, query: Query) -> tuple[str, ...]:
        return (self.word,)


@dataclass(frozen=True, kw_only=True)
class Head(PointwiseJudge):
    """A judge that scores a document by the scoring head of a reranker, which reads a prompt with query and document.

    In contrast to `Relate`, the document may be a picture. n documents need n requests.
    """

    needs = (HeadTask,)
    prompt = "jina_m0"
    score_name = "cross-encoder score"
    is_logit = True

    def continuations(self, query: Query) -> tuple[str, ...]:
        return ("",)


@dataclass(frozen=True, kw_only=True)
class Likelihood(PointwiseJudge):
    """A judge that scores a document by the log-likelihood of the query after a prompt that shows only the document.

    score = sum over the query's tokens t of log P(t | prompt, tokens before t). The query has the same number of tokens
    for every document, so the mean used by UPR gives the same order. n documents need n requests with one forward pass
    each; no text is generated.
    """

    needs = (LikelihoodTask,)
    prompt = "query_likelihood"
    score_name = "log-likelihood of the query"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.render("one", [""]) != self.template.render("another", [""]):
            raise UsageError(
                f"The prompt {self.template.name!r} shows the query, whose likelihood is to be computed",
                expected="a pointwise prompt without a placeholder for 'query'",
                remedy=f"Omit --prompt to use {self.prompt!r}",
            )

    def continuations(self, query: Query) -> tuple[str, ...]:
        # a single line without marks of chat turns
        return (escape_turn_marks(collapse_whitespace(query.text), self.budget.turn_marks),)


@dataclass(frozen=True, kw_only=True)
class Relate(PromptJudge):
    """A judge that orders a window of any length by cross-encoder scores. It makes one request per window.

    Ties keep the input order. The title and text of a document are joined to one line. This line is truncated to the
    part of the context that the query leaves free (the whole context if the model reads both apart), or to
    ``max_passage_tokens`` if that is less. If the query leaves less than ``min_passage_tokens``, a
    `ContextOverflowError` is raised. The query is never truncated. The prompt of
    the request contains the texts that are scored: one message with the query, then one per document. Models that
    were trained on pairs with other words have a verbatim prompt, unless their own chat template adds these words.
    """

    needs = (CrossEncoderTask,)
    prompt = "pair"
    sorts_by_score = True

    #: Whether the model reads the documents of a window together, as jina-reranker-v3 does, so that a score depends on
    #: the other documents.
    together: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.digest != load_prompt(self.prompt).digest and not (
            self.template.verbatim and self.template.is_pair
        ):
            raise UsageError(
                f"The prompt {self.template.name!r} was given, but a cross-encoder does not use prompts",
                expected="no prompt, or a verbatim prompt whose prefix shows the query and whose body the passage",
                remedy="Omit --prompt",
            )

    @property
    def score_kind(self) -> ScoreKind:
        if self.together:
            # The cosine, which jina-reranker-v3's own code outputs (modeling.py of jinaai/jina-reranker-v3).
            return ScoreKind("relevance within the list", "within", "same")
        if traits(self.backend).reads_apart:
            return ScoreKind("late-interaction score", "absolute")
        unit = traits(self.backend).score_unit
        return ScoreKind("cross-encoder score", "absolute", unit) if unit else ScoreKind("1 / rank", "within")

    def make_requests(self, window: Window) -> list[Request]:
        marks = self.budget.turn_marks
        query = escape_turn_marks(collapse_whitespace(window.query.text), marks)
        template = self.template
        if traits(self.backend).has_pair_template:
            if window.query.instruction and template.takes_instruction:
                warnings.warn(
                    "The model's own chat template makes the text of a pair, so the query's instruction is not used",
                    stacklevel=2,
                )
            template = load_prompt(self.prompt)
        template = template.with_instruction(escape_turn_marks(window.query.instruction, marks))
        beside = replace(window.query, text="") if traits(self.backend).reads_apart else window.query
        whole = [Window(beside, (replace(doc, title="", text=doc.full_text),)) for doc in window.docs]
        fitted = [self.budget.fit(template, pair, reply_tokens=0) for pair in whole]
        first, seconds = template.render_pairs(query, [prompt.passages[0] for prompt in fitted])
        prompt = tuple(Message("user", text) for text in (first, *seconds))
        dropped = tuple(sum(prompt.dropped) for prompt in fitted) if any(prompt.dropped for prompt in fitted) else ()
        sampling, task = Sampling(max_tokens=0), CrossEncoderTask()
        return [Request(prompt=prompt, sampling=sampling, window=window, task=task, dropped=dropped)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return failed_verdict(replies, len(window)) or self.rank_by_score(replies[0].scores, window)

"""A training list as a model reads it: the very prompt that the judge would ask, what is read off, what is wanted.

Prompts come from the judge that will rank with the adapter, so training and inference cannot differ. Knows token ids
and places, no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from rerank.errors import ContextOverflowError, UsageError
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.trainer.target_text import Label, tokenized, written
from rerank.judges.attention import Attention
from rerank.judges.base import Asking
from rerank.judges.generate import Generate
from rerank.judges.logits import Logits
from rerank.judges.score import Score
from rerank.lm.passage_spans import locate
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import opening
from rerank.prompts.identifiers import Alphabet, identifiers
from rerank.prompts.passages import one_line
from rerank.tasks import ContinuationTask
from rerank.types import Window

#: One term of a document's score: a place whose next token is looked at, that token, a factor of its log-probability.
Term = tuple[int, int, float]


#: What to do about a list that is too long.
_SHORTER = "Lower documents or min_passage_tokens in the recipe, or take a model with a longer context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training list as tokens, in one text or in several that are read apart.

    Places count through all texts, one after the other.

    Attributes:
        texts: Token ids of each text.
        label: Place before the first token of the label, from which it is predicted; -1 without one.
        label_ranks: For each of its tokens the rank that it belongs to; see `Label`.
        terms: For each document, what its score from logits is summed up of; empty if none is wanted.
        passages: For each document, the first and past-last place of its tokens; empty if attention is not wanted.
        rows: First and past-last place of the rows whose attention counts.
        ranks: Each document's rank under the label.
        scores: The teacher's scores, or nothing.
        query: The query's id, for messages.
    """

    texts: tuple[tuple[int, ...], ...]
    label: int = -1
    label_ranks: tuple[int, ...] = ()
    terms: tuple[tuple[Term, ...], ...] = ()
    passages: tuple[tuple[int, int], ...] = ()
    rows: tuple[int, int] = (0, 0)
    ranks: tuple[int, ...]
    scores: tuple[float, ...] = ()
    query: str = ""

    def __len__(self) -> int:
        """How many tokens it has."""
        return sum(map(len, self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What the losses look at.

    Attributes:
        tokens: The written order.
        logits: A score a document from logits.
        attention: A score a document from attention.
    """

    tokens: bool = False
    logits: bool = False
    attention: bool = False


class Examples:
    """Makes examples with the judge of a recipe.

    Args:
        judge: Who will rank with the adapter.
        looks: What the losses look at.

    Raises:
        UsageError: The judge gives nothing of what the losses look at, or makes something else of it.
    """

    def __init__(self, judge: Asking, looks: Looks) -> None:
        """Check that judge and losses fit."""
        self._judge, self._looks = judge, looks
        self._tokens = cast(HfTokens, judge.backend.tokens)
        listwise = isinstance(judge, Attention | Generate | Logits)
        name = type(judge).__name__.lower()
        if not listwise and not isinstance(judge, Score):
            raise UsageError(f"Training for the judge {name!r}", expected="one of: attention, generate, logits, score")
        if not listwise and (looks.tokens or looks.attention):
            raise UsageError(
                f"The judge {name!r} sees one document at a time, and a loss looks at the order or at attention",
                expected="losses on logits, such as margin-mse or ranknet",
            )

        if looks.attention and isinstance(judge, Attention) and judge.calibrate:
            raise UsageError(
                "A loss on attention, and a method that calibrates: it would rank by what was not trained",
                expected="a method that ranks by attention as it is",
                remedy="Set method = 'full:attention,calibrate=false'",
            )

    def make(self, given: TrainingList) -> Example:
        """The example of one list.

        Raises:
            ContextOverflowError: It does not fit the context, label and all.
            DataError: See `PromptTemplate.render`.
        """
        window = Window(given.query, given.docs)
        found = self._apart(window) if isinstance(self._judge, Score) else self._together(window, given)
        return replace(found, ranks=given.ranks, scores=given.scores, query=given.query.id)

    def _apart(self, window: Window) -> Example:
        """One text a document, whose score is what its judge would say."""
        judge = cast(Score, self._judge)
        texts, terms, place = [], [], 0
        for request in judge.requests(window):
            rendered = self._tokens.render(request.prompt)
            ids = self._tokens.ids(rendered)
            yes, no = (self._next(rendered, ids, word) for word in cast(ContinuationTask, request.task).continuations)
            place += len(ids)
            texts.append(tuple(ids))
            terms.append(((place - 1, yes, 1.0), (place - 1, no, -1.0)))
        return Example(texts=tuple(texts), terms=tuple(terms), ranks=())

    def _next(self, rendered: str, ids: Sequence[int], word: str) -> int:
        """The token that begins a continuation of a prompt."""
        whole = self._tokens.ids(rendered + word)
        return whole[len(ids)] if whole[: len(ids)] == list(ids) else self._tokens.plain(word)[0]

    def _together(self, window: Window, given: TrainingList) -> Example:
        """One text with the whole list."""
        judge, n = self._judge, len(window)
        alphabet: Alphabet = "letters" if isinstance(judge, Logits) else getattr(judge, "identifiers", "numbers")
        names = identifiers(alphabet, n, self._tokens)
        turned = isinstance(judge, Attention) and not judge.best_first
        places = list(range(n))[:: -1 if turned else 1]  # position shown -> position in the list
        shown = replace(window, docs=tuple(window.docs[at] for at in places))
        called = dict(zip(places, names, strict=True))
        order = [called[at] for at in given.order]
        plain, _ = written(tuple(range(n)), order)
        reply = self._tokens.lengths([plain])[0] + 2 if self._looks.tokens else 1
        labels = names if alphabet == "letters" else None
        try:
            fitted = judge.budget.fit(judge.template, shown, reply_tokens=reply, labels=labels)
        except ContextOverflowError as error:  # whose remedy is for those who rank
            raise ContextOverflowError(error.found, remedy=_SHORTER) from error
        rendered = self._tokens.render(fitted.prompt)
        text, spans = written(tuple(range(n)), order, opening(fitted.prompt))
        label = tokenized(self._tokens, rendered, text, spans)
        ids = tuple(self._tokens.ids(rendered))
        self._check(len(ids) + len(label.ids), given)
        example = Example(texts=(ids,), ranks=())
        if self._looks.tokens:
            example = replace(example, texts=((*ids, *label.ids),), label=len(ids) - 1, label_ranks=label.ranks)
        if self._looks.logits:
            example = self._with_terms(example, rendered, [called[at] for at in range(n)], label, len(ids))
        if self._looks.attention:
            where, tail = judge.template.spans(one_line(window.query.text), fitted.passages, labels=labels)
            found = locate(self._tokens, fitted.prompt, where, tail)
            stretches = {at: (span.start, span.stop) for at, span in zip(places, found.spans, strict=True)}
            example = replace(
                example, passages=tuple(stretches[at] for at in range(n)), rows=(found.tail, len(found.ids))
            )
        return example

    def _check(self, length: int, given: TrainingList) -> None:
        room = self._judge.limits.context_size or self._tokens.context_size
        if length > room:
            raise ContextOverflowError(
                f"The prompt and the label of query {given.query.id!r} with {len(given)} documents have {length} "
                f"tokens, and the context holds {room}",
                remedy=_SHORTER,
            )

    def _with_terms(self, example: Example, rendered: str, names: Sequence[str], label: Label, prompt: int) -> Example:
        """Scores from the logits of the first token of each document's name, where the first identifier is written."""
        begun = rendered.endswith("[")
        marks = [self._next(rendered, example.texts[0][:prompt], f"{'' if begun else '['}{name}") for name in names]
        place = prompt - 1
        if not begun:  # the name stands behind a bracket, whose token has to be there
            ids = (*example.texts[0][:prompt], *label.ids[: label.first])
            text = rendered + "["
            marks = [self._next(text, ids, name) for name in names]
            place = len(ids) - 1
            if not self._looks.tokens:
                example = replace(example, texts=(ids,))
        if len(set(marks)) < len(marks):
            raise UsageError(
                "A loss on logits, and identifiers that begin with the same token",
                expected="identifiers of one token each",
                remedy="Take method = 'first-full', or the option identifiers=letters",
            )
        return replace(example, terms=tuple(((place, mark, 1.0),) for mark in marks))

"""Training examples: the tokens of a training list, and the positions at which the losses use model outputs.

Prompts come from the judge that will rank with the adapter, so training and inference use the same prompts. The target
text of a generative reranker consists of the identifiers, best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from pydantic import TypeAdapter

from rerank.errors import ContextOverflowError, UsageError
from rerank.finetune.components import RecipeComponents
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.recipe import Recipe
from rerank.judges import judges
from rerank.judges.attention import Attention
from rerank.judges.base import PointwiseJudge, PromptJudge
from rerank.judges.generate import Generate, Logits
from rerank.judges.pointwise import Likelihood, Relate, Score
from rerank.lm.tokenizers import HfTokens, locate_passage_tokens, tokenize_text_after
from rerank.prompts.base import reply_prefix_of_prompt
from rerank.prompts.passages import Alphabet, collapse_whitespace, make_identifiers
from rerank.selector import Selector
from rerank.tasks import ContinuationTask
from rerank.types import Order, Window

#: One term of a document score, as (position, token, factor): the factor times the log-probability that the token
#: follows the position.
ScoreTerm = tuple[int, int, float]

#: Remedy for a list that is too long.
_SHORTEN_LIST = "Lower documents or min_passage_tokens in the recipe, or use a model with a longer context"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """One training list as tokens: a single text, or one text per document.

    Positions refer to the concatenation of all texts.
    """

    texts: tuple[tuple[int, ...], ...]  #: Token ids of each text.
    #: (position, token): the output at the position predicts the target token. Empty if no loss uses tokens.
    target: tuple[tuple[int, int], ...] = ()
    target_ranks: tuple[int, ...] = ()  #: Rank of the document that each target token belongs to, as in `TargetTokens`.
    #: For each document, the terms whose sum is its score; empty if no loss uses logits.
    terms: tuple[tuple[ScoreTerm, ...], ...] = ()
    #: Start and end (exclusive) of the tokens of each document; empty if no loss uses attention.
    passages: tuple[tuple[int, int], ...] = ()
    #: Start and end (exclusive) of the attention rows that are averaged; (0, 0) if no loss uses attention.
    rows: tuple[int, int] = (0, 0)
    ranks: tuple[int, ...]  #: Rank of each document according to the label, from 1.
    scores: tuple[float, ...] = ()  #: Teacher scores; empty if there are none.
    query: str = ""

    def __len__(self) -> int:
        return sum(map(len, self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Kinds of model outputs that the losses of a recipe use."""

    tokens: bool = False  #: True if a loss uses the log-probabilities of the target text.
    logits: bool = False  #: True if a loss uses document scores from logits.
    attention: bool = False  #: True if a loss uses document scores from attention weights.

    @classmethod
    def of(cls, recipe: Recipe, components: RecipeComponents) -> LossInputs:
        pairs = list(zip(recipe.losses, components.losses, strict=True))
        sources = {table.on or "logits" for table, loss in pairs if loss.of == "scores"}
        return cls(
            tokens=any(loss.of == "tokens" for _, loss in pairs),
            logits="logits" in sources,
            attention=bool(sources - {"logits"}),
        )


def check_judge(judge: Selector, inputs: LossInputs) -> None:
    """Check, before the model is loaded, that a judge supports training with losses that use these model outputs."""
    kind = judges.get(judge.name)
    if not issubclass(kind, Attention | Generate | Likelihood | Logits | Relate | Score):
        raise UsageError(
            f"Training for the judge {judge.name!r} is not supported",
            expected="one of: attention, generate, likelihood, logits, relate, score",
            remedy="Set another method in [method]",
        )
    if issubclass(kind, PointwiseJudge) and (inputs.attention or (inputs.tokens and issubclass(kind, Score))):
        raise UsageError(
            f"The judge {judge.name!r} scores one document at a time, but a loss uses "
            f"{'attention' if inputs.attention else 'the target text'}",
            expected="losses on logits, such as margin-mse or ranknet",
        )
    calibrates = TypeAdapter(bool).validate_python(judge.options.get("calibrate", True))
    if inputs.attention and issubclass(kind, Attention) and calibrates:
        raise UsageError(
            "A loss uses uncalibrated attention, but the method ranks by calibrated attention",
            expected="a method without calibration",
            remedy="Set method = 'full:attention,calibrate=false'",
        )


class ExampleBuilder:
    """Builder of training examples with the prompts of the judge that will rank with the adapter."""

    def __init__(self, judge: PromptJudge, inputs: LossInputs) -> None:
        self._judge, self._inputs = judge, inputs
        self._tokens = cast(HfTokens, judge.backend.tokens)

    @property
    def is_pointwise(self) -> bool:
        return isinstance(self._judge, PointwiseJudge)

    def make(self, training_list: TrainingList) -> TrainingExample:
        window = Window(training_list.query, training_list.docs)
        example = (self._pointwise if self.is_pointwise else self._listwise)(window, training_list)
        return replace(example, ranks=training_list.ranks, scores=training_list.scores, query=training_list.query.id)

    def _pointwise(self, window: Window, training_list: TrainingList) -> TrainingExample:
        """Build one text per document, with the terms of the score that the judge computes for the document.

        For losses on tokens, the target is the query that follows the prompt of the best document.
        """
        texts: list[tuple[int, ...]] = []
        terms: list[tuple[ScoreTerm, ...]] = []
        length = 0
        for request in cast(PointwiseJudge, self._judge).make_requests(window):
            rendered = self._tokens.render(request.prompt)
            ids = self._tokens.ids(rendered)
            text, score = self._score_terms(rendered, ids, cast(ContinuationTask, request.task).continuations)
            texts.append(text)
            terms.append(tuple((length + position, token, factor) for position, token, factor in score))
            length += len(text)
        example = TrainingExample(texts=tuple(texts), terms=tuple(terms), ranks=())
        if self._inputs.tokens:
            target = tuple((position, token) for position, token, _ in terms[training_list.order[0]])
            example = replace(example, target=target, target_ranks=(1,) * len(target))
        return example

    def _score_terms(
        self, rendered: str, ids: Sequence[int], continuations: Sequence[str]
    ) -> tuple[tuple[int, ...], list[ScoreTerm]]:
        """Return the token ids of a document's text, and the terms of the document's score.

        ``continuations`` are the query, whose log-likelihood is the score, or yes and no, for log P(yes) - log P(no).
        ``ids`` are the token ids of the rendered prompt.
        """
        last = len(ids) - 1
        if len(continuations) == 1:
            tokens = tokenize_text_after(self._tokens.plain, rendered, self._tokens.chat.escape(continuations[0]))
            return (*ids, *tokens[:-1]), [(last + offset, token, 1.0) for offset, token in enumerate(tokens)]
        yes, no = (self._next_token(rendered, ids, word) for word in continuations)
        return tuple(ids), [(last, yes, 1.0), (last, no, -1.0)]

    def _next_token(self, rendered: str, ids: Sequence[int], word: str) -> int:
        """Return the id of the first token of ``word`` after a rendered prompt, whose token ids are ``ids``."""
        whole = self._tokens.ids(rendered + word)
        return whole[len(ids)] if whole[: len(ids)] == list(ids) else self._tokens.plain(word)[0]

    def _listwise(self, window: Window, training_list: TrainingList) -> TrainingExample:
        judge, n = self._judge, len(window)
        alphabet: Alphabet = "letters" if isinstance(judge, Logits) else getattr(judge, "identifiers", "numbers")
        names = make_identifiers(alphabet, n, self._tokens)
        reverse = isinstance(judge, Attention) and not judge.best_first
        positions = list(range(n))[:: -1 if reverse else 1]  # position in the prompt -> position in the list
        shown = replace(window, docs=tuple(window.docs[position] for position in positions))
        name_of = dict(zip(positions, names, strict=True))
        order = [name_of[position] for position in training_list.order]
        plain, _ = render_target_order(tuple(range(n)), order)
        reply = self._tokens.lengths([plain])[0] + 2 if self._inputs.tokens else 1
        labels = names if alphabet == "letters" else None
        try:
            fitted = judge.budget.fit(judge.template, shown, reply_tokens=reply, labels=labels)
        except ContextOverflowError as error:  # the remedy of this error is about ranking, not about training
            raise ContextOverflowError(error.found, remedy=_SHORTEN_LIST) from error
        rendered = self._tokens.render(fitted.prompt)
        text, spans = render_target_order(tuple(range(n)), order, reply_prefix_of_prompt(fitted.prompt))
        label = tokenize_target_text(self._tokens, rendered, text, spans)
        ids = tuple(self._tokens.ids(rendered))
        length, context = len(ids) + len(label.ids), judge.limits.context_size or self._tokens.context_size
        if length > context:
            raise ContextOverflowError(
                f"Prompt and target of query {training_list.query.id!r} with {len(training_list)} documents have "
                f"{length} tokens, more than the context of {context} tokens",
                remedy=_SHORTEN_LIST,
            )
        example = TrainingExample(texts=(ids,), ranks=())
        if self._inputs.tokens:
            target = tuple((len(ids) - 1 + offset, token) for offset, token in enumerate(label.ids))
            example = replace(example, texts=((*ids, *label.ids),), target=target, target_ranks=label.ranks)
        if self._inputs.logits:
            example = self._with_terms(example, rendered, [name_of[position] for position in range(n)], label, len(ids))
        if self._inputs.attention:
            query = collapse_whitespace(window.query.text)
            char_spans, tail = judge.template.spans(query, fitted.passages, labels=labels)
            located = locate_passage_tokens(self._tokens, fitted.prompt, char_spans, tail)
            spans_of = dict(zip(positions, ((span.start, span.stop) for span in located.spans), strict=True))
            passages = tuple(spans_of[position] for position in range(n))
            example = replace(example, passages=passages, rows=(located.tail, len(located.ids)))
        return example

    def _with_terms(
        self, example: TrainingExample, rendered: str, names: Sequence[str], label: TargetTokens, prompt: int
    ) -> TrainingExample:
        """Add the score terms: the log-probability of each identifier's first token, where the first identifier starts.

        ``prompt`` is the number of tokens of the rendered prompt, ``names`` are the identifiers of the documents.
        """
        text, ids = rendered, example.texts[0][:prompt]
        if not text.endswith("["):  # identifiers follow a bracket, so its token is added before the position
            text, ids = f"{text}[", (*ids, *label.ids[: label.first])
            if not self._inputs.tokens:
                example = replace(example, texts=(ids,))
        tokens = [self._next_token(text, ids, name) for name in names]
        if len(set(tokens)) < len(tokens):
            raise UsageError(
                "A loss uses logits, but several identifiers start with the same token",
                expected="identifiers of one token each",
                remedy="Set method = 'first-full', or the option identifiers=letters",
            )
        return replace(example, terms=tuple(((len(ids) - 1, token, 1.0),) for token in tokens))


#: Separator between two identifiers, as in the training data of the published models.
SEPARATOR = " > "


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTokens:
    """The tokens of a target text, with the rank of the document that each token belongs to."""

    ids: tuple[int, ...]  #: Token ids, including the end-of-text token.
    #: Rank of the identifier that each token belongs to, from 1; 0 for separators and the end-of-text token.
    ranks: tuple[int, ...]
    first: int  #: Index of the first token of the first identifier, after its bracket.


def render_target_order(order: Order, names: Sequence[str], prefix: str = "") -> tuple[str, list[tuple[int, int]]]:
    """Return the target text of an order, and the character span of each identifier with its brackets.

    ``prefix`` is the start of the completion that the prompt contains, such as the first bracket.

    >>> render_target_order((1, 0), ("1", "2"))
    ('[2] > [1]', [(0, 3), (6, 9)])
    >>> render_target_order((1, 0), ("1", "2"), prefix="Order: [")
    ('2] > [1]', [(0, 2), (5, 8)])
    """
    items = [f"[{names[position]}]" for position in order]
    skipped = 1 if prefix.endswith("[") else 0  # the opening bracket is already in the prompt
    spans = []
    start = -skipped
    for item in items:
        spans.append((max(start, 0), start + len(item)))
        start += len(item) + len(SEPARATOR)
    return SEPARATOR.join(items)[skipped:], spans


def tokenize_target_text(tokens: HfTokens, rendered: str, text: str, spans: Sequence[tuple[int, int]]) -> TargetTokens:
    """Tokenize a target text that follows a prompt; ``spans`` are the character spans of its identifiers, best first.

    Prompt and target are tokenized together. If a token spans the border between them, the target is tokenized alone,
    because at inference the prompt tokens are fixed before the first completion token. A token belongs to the
    identifier that contains its first non-whitespace character; all others are separators.
    """
    prompt = tokens.ids(rendered)
    ids, starts = tokens.starts(rendered + text)
    begin = len(rendered)
    if ids[: len(prompt)] == prompt and starts[len(prompt) : len(prompt) + 1] >= [begin]:
        ids, starts = ids[len(prompt) :], [start - begin for start in starts[len(prompt) :]]
    else:
        encoded = tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
    visible = [start + len(text[start:]) - len(text[start:].lstrip()) for start in starts]
    ranks = [next((rank for rank, (a, b) in enumerate(spans, 1) if a <= start < b), 0) for start in visible]
    name = spans[0][0] + (text[spans[0][0]] == "[")
    first = max(index for index, start in enumerate(starts) if start <= name)
    end = tokens.tokenizer.eos_token_id
    closing = [] if end is None else [end]
    return TargetTokens(ids=(*ids, *closing), ranks=(*ranks, *(0 for _ in closing)), first=first)

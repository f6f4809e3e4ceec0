"""Answers to predicate, choice and score questions about an input, computed from the model's probabilities.

A predicate is answered by the pointwise relevance of the input to the question. For a choice, the possible values form
a window, and the judge returns the probability of each identifier. Both use judges for rankings with separate prompts.
"""

import asyncio
import math
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from rerank.errors import UsageError
from rerank.judges import FAILURES, PromptJudge
from rerank.reranker import Reranker
from rerank.serving.errors import ApiError
from rerank.serving.ranking_service import RankingService
from rerank.tasks import AsyncBackend, Reply
from rerank.tasks.dialects import decisions
from rerank.tasks.requests import Usage
from rerank.tasks.tracing import agenerate_traced, generate_traced
from rerank.types import Document, Query, Window

T = TypeVar("T")


@dataclass(frozen=True)
class DecisionService:
    """Service that answers predicate, choice and score questions with the model, queue and counters of another one."""

    service: RankingService = field(repr=False)

    @cached_property
    def _predicate_judge(self) -> PromptJudge:
        return self._open_judge("full:score", "decision_predicate")

    @cached_property
    def _choice_judge(self) -> PromptJudge:
        return self._open_judge("full:pick", "decision_choice")

    def _open_judge(self, method: str, prompt: str) -> PromptJudge:
        try:
            return Reranker.from_backend(self.service.reranker.backend, method=method, prompt=prompt).judge
        except UsageError as error:
            raise ApiError(422, f"The model cannot answer typed questions: {error}") from error

    async def decide(self, request: decisions.DecisionRequest, text: str, client: str) -> decisions.DecisionResponse:
        """Answer the questions of a request about its input, whose text is ``text``."""
        texts: list[str] = []
        for question in request.questions:
            options = _option_texts(question)
            self.service.check_documents(len(options))
            texts += [text, question.instructions, *options]  # every question reads the whole input
        await self.service.check_tokens(texts)
        async with self.service.queue.slot(client):
            if isinstance(self.service.reranker.backend, AsyncBackend):
                found = await _gather(self._answer(text, question) for question in request.questions)
            else:  # a batch in this process cannot be cancelled, so at most one batch may be running
                found = [await self._answer(text, question) for question in request.questions]
        usage = Usage()
        for _, replies in found:
            for reply in replies:
                usage.add(reply)
        answers = [answer for answer, _ in found]
        is_degraded = any(isinstance(answer, decisions.RefusalAnswer) for answer in answers)
        self.service.metrics.count_ranking(usage, documents=0, is_degraded=is_degraded)
        return decisions.DecisionResponse(
            model=self.service.settings.name,
            answers=answers,
            usage=decisions.DecisionUsage(
                input_tokens=usage.tokens_in,
                input_tokens_details=decisions.InputTokens(cached_tokens=usage.tokens_cached),
                output_tokens=usage.tokens_out,
                total_tokens=usage.tokens_in + usage.tokens_out,
            ),
        )

    async def _answer(
        self, text: str, question: decisions.DecisionQuestion
    ) -> tuple[decisions.DecisionAnswer, Sequence[Reply]]:
        if isinstance(question, decisions.PredicateQuestion):
            judge, query, texts = self._predicate_judge, Query(id="decision", text=question.instructions), [text]
        else:
            judge, texts = self._choice_judge, _option_texts(question)
            query = Query(id="decision", text=text, instruction=question.instructions)
        window = Window(query, tuple(Document(id=str(index), text=shown) for index, shown in enumerate(texts)))
        requests, backend = await asyncio.to_thread(judge.make_requests, window), self.service.reranker.backend
        if isinstance(backend, AsyncBackend):
            replies = await _gather(agenerate_traced(backend, request) for request in requests)
        else:
            replies = await asyncio.to_thread(generate_traced, backend, [(request, None) for request in requests])
        verdict = await asyncio.to_thread(judge.verdict, window, replies)
        if verdict.status == "error":
            raise ApiError(503, f"The model did not answer: {verdict.detail}")
        if verdict.status in FAILURES:
            return decisions.RefusalAnswer(name=question.name), replies
        return _typed_answer(question, [score for score in verdict.scores if score is not None]), replies


async def _gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all coroutines. The first error cancels the other coroutines, and is then raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _option_texts(question: decisions.DecisionQuestion) -> list[str]:
    """Return the text of each answer option as it appears in the prompt; a predicate (yes or no) has none."""
    if isinstance(question, decisions.PredicateQuestion):
        return []
    options = question.choices if isinstance(question, decisions.ChoiceQuestion) else question.levels
    texts = []
    for option in options:
        value = option.value if isinstance(option, decisions.DecisionChoice) else option.label
        text = str(value).lower() if isinstance(value, bool) else value
        texts.append(f"{text}: {option.description}" if option.description else text)
    return texts


def _typed_answer(question: decisions.DecisionQuestion, scores: Sequence[float]) -> decisions.DecisionAnswer:
    """Return the answer, computed from the model's scores: log-odds of a predicate, or a log-probability per option."""
    if isinstance(question, decisions.PredicateQuestion):
        return decisions.PredicateAnswer(name=question.name, probability=1 / (1 + math.exp(-max(-700.0, scores[0]))))
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    shares = [weight / sum(weights) for weight in weights]
    confidence = max(shares)
    if isinstance(question, decisions.ChoiceQuestion):
        values = [choice.value for choice in question.choices]
        return decisions.ChoiceAnswer(
            name=question.name,
            choice=values[shares.index(confidence)],
            confidence=confidence,
            probabilities=[
                decisions.ChoiceProbability(value=value, probability=share)
                for value, share in zip(values, shares, strict=True)
            ],
        )
    return decisions.ScoreAnswer(
        name=question.name,
        score=sum(position * share for position, share in enumerate(shares)),
        confidence=confidence,
        probabilities=[
            decisions.LevelProbability(label=level.label, value=position, probability=share)
            for position, (level, share) in enumerate(zip(question.levels, shares, strict=True))
        ],
    )

"""OpenAI's decisions API, ``POST /v1/decisions``: questions about an input, answered with probabilities."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictStr

from rerank.errors import DataError, error_repr
from rerank.io.text_files import replace_lone_surrogates
from rerank.tasks.dialects.question import ApiBody, GivenList, GivenText

#: A value of a choice. A text and a boolean are different values even if they look the same, such as "true" and true.
ChoiceValue = Annotated[StrictStr, AfterValidator(replace_lone_surrogates)] | StrictBool


class DecisionChoice(ApiBody):
    """One possible answer to a choice question."""

    value: ChoiceValue
    description: GivenText | None = None


class DecisionLevel(ApiBody):
    """One possible answer to a score question; its levels are listed from the lowest to the highest."""

    label: GivenText
    description: GivenText | None = None


class PredicateQuestion(ApiBody):
    """A question in the form of a statement that is true or false for the input."""

    type: Literal["predicate"]
    instructions: GivenText
    name: GivenText | None = None


class ChoiceQuestion(ApiBody):
    """A question whose answer is one of several values."""

    type: Literal["choice"]
    instructions: GivenText
    name: GivenText | None = None
    choices: GivenList[DecisionChoice] = Field(min_length=2, max_length=255)


class ScoreQuestion(ApiBody):
    """A question whose answer is a level of a scale."""

    type: Literal["score"]
    instructions: GivenText
    name: GivenText | None = None
    levels: GivenList[DecisionLevel] = Field(min_length=2, max_length=255)


#: A question of any type.
DecisionQuestion = Annotated[PredicateQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]


class DecisionRequest(ApiBody):
    """A request: an input and 1 to 400 questions about it. The input is a text, or a list of messages or text parts."""

    model: str = ""
    input: str | GivenList[dict[str, Any]]
    questions: GivenList[DecisionQuestion] = Field(min_length=1, max_length=400)

    def input_text(self) -> str:
        """Return the input as one text, in which the parts of messages are separated by line breaks."""
        texts: list[str] = []
        waiting: list[Any] = [self.input]  # a stack, since parts may be nested deeper than Python's recursion limit
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                part = part.get("text", part.get("content", part))
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, list):
                waiting.extend(reversed(part))
            else:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise DataError(f"A part of the input has the type {error_repr(kind)}", expected="texts or messages")
        return replace_lone_surrogates("\n".join(texts))


class PredicateAnswer(ApiBody):
    """The answer to a predicate question: the probability that the statement is true."""

    type: Literal["predicate"] = "predicate"
    name: str | None = None
    probability: float


class ChoiceProbability(ApiBody):
    """The probability of one value of a choice question."""

    value: ChoiceValue
    probability: float


class ChoiceAnswer(ApiBody):
    """The answer to a choice question: the most probable value, its probability, and all probabilities."""

    type: Literal["choice"] = "choice"
    name: str | None = None
    choice: ChoiceValue
    confidence: float
    probabilities: list[ChoiceProbability]


class LevelProbability(ApiBody):
    """The probability of one level of a score question; ``value`` is the position of the level, from 0."""

    label: str
    value: int
    probability: float


class ScoreAnswer(ApiBody):
    """The answer to a score question: the expected level, the largest probability, and all probabilities."""

    type: Literal["score"] = "score"
    name: str | None = None
    score: float
    confidence: float
    probabilities: list[LevelProbability]


class RefusalAnswer(ApiBody):
    """Placeholder for the answer to a question that the model did not answer."""

    type: Literal["refusal"] = "refusal"
    name: str | None = None


#: An answer of any type.
DecisionAnswer = Annotated[PredicateAnswer | ChoiceAnswer | ScoreAnswer | RefusalAnswer, Field(discriminator="type")]


class InputTokens(ApiBody):
    """Details of the input tokens: how many were read from a cache, and how many were written to a cache."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokens(ApiBody):
    """Details of the output tokens: the number of reasoning tokens."""

    reasoning_tokens: int = 0


class DecisionUsage(ApiBody):
    """Numbers of input tokens, output tokens and all tokens."""

    input_tokens: int
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class DecisionResponse(ApiBody):
    """A response, with one answer per question, in the order of the questions."""

    object: Literal["decision"] = "decision"
    model: str
    answers: list[DecisionAnswer]
    usage: DecisionUsage

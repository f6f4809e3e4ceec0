"""Types that the formats of all rerank APIs (dialects) share: a question, its answer, documents and spans."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from rerank.errors import DataError, error_repr
from rerank.io.text_files import replace_lone_surrogates

#: A text of a request. Lone surrogates in JSON are replaced, since no tokenizer and no response can encode them.
GivenText = Annotated[str, AfterValidator(replace_lone_surrogates)]

#: A document of a request: a text, or an object of fields.
GivenDocument = GivenText | dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSettings:
    """Settings for the evidence spans that a client requests.

    Attributes:
        threshold: Minimum share of a document's attention that every unit in a span receives; None makes every unit a
            span.
        max_spans: Maximum number of spans per document; None for all.
        unit: Unit of which spans consist: sentences or words.
    """

    threshold: float | None = 0.1
    unit: Literal["sentence", "word"] = "sentence"
    max_spans: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankQuestion:
    """The content of a rerank request, in a form that is independent of the API.

    Attributes:
        query: The query.
        documents: The texts of the documents, in the order of the request.
        model: Name of the model in the request; empty if it is missing.
        top_n: Number of results; None for all.
        returns_documents: Whether results contain the texts.
        scores: First-stage scores, one per document; None if the request contains none.
        instruction: Description of what counts as relevant; empty for none.
        max_document_tokens: Maximum number of tokens of a document; None for the ranker's own limit.
        deadline: Seconds for the whole ranking; None for the server's own limit.
        spans: Settings for the evidence spans to return; None to return none.
        warnings: Messages about requested settings that have no effect.
    """

    query: str
    documents: Sequence[str]
    model: str = ""
    top_n: int | None = None
    returns_documents: bool = False
    scores: Sequence[float] | None = None
    instruction: str = ""
    max_document_tokens: int | None = None
    deadline: float | None = None
    spans: SpanSettings | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceOfDocument:
    """A span of a document that received much attention: code points [start, end) and its score."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocument:
    """One document in the answer to a rerank request.

    Attributes:
        index: Position of the document in the request, from 0.
        relevance_score: A number in (0, 1], strictly decreasing along the results.
        spans: Evidence spans; None if the client did not request them or the method cannot compute them.
    """

    index: int
    relevance_score: float
    spans: tuple[EvidenceOfDocument, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankAnswer:
    """The answer to a rerank request, in a form that is independent of the API.

    Attributes:
        id: Unique id of the answer.
        model: Name of the model that answered.
        question: The question.
        results: The documents, best first.
        tokens_in: Number of prompt tokens.
        tokens_out: Number of completion tokens.
        tokens_cached: Number of prompt tokens that were taken from a cache.
        warnings: Messages about problems with the scores or the order; empty if there are none.
    """

    id: str
    model: str
    question: RerankQuestion
    results: Sequence[RankedDocument]
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def tokens(self) -> int:
        """Number of prompt and completion tokens."""
        return self.tokens_in + self.tokens_out


class ApiBody(BaseModel):
    """Base class of request and response bodies. Unknown fields are ignored, since newer versions may add fields."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())


class RerankBody(ApiBody):
    """Base class of the requests of all dialects, with the fields that our server accepts in each of them.

    Attributes:
        deadline_ms: Milliseconds for the whole ranking. Documents that are not judged by then keep their order.
        scores: First-stage scores, one per document, in the order of the documents.
        instruction: Description of what counts as relevant. The field may also be named ``instruct``, as in Jina's and
            Qwen's clients.
    """

    deadline_ms: float | None = Field(default=None, gt=0, le=86_400_000)
    scores: list[float] | None = None
    instruction: GivenText | None = Field(default=None, validation_alias=AliasChoices("instruction", "instruct"))

    @abstractmethod
    def to_question(self) -> RerankQuestion:
        """Convert the request to a `RerankQuestion`."""

    @property
    def deadline(self) -> float | None:
        """Seconds for the whole ranking; None for the server's own limit."""
        return None if self.deadline_ms is None else self.deadline_ms / 1000


def document_texts(documents: Sequence[GivenDocument], rank_fields: Sequence[str] | None = None) -> list[str]:
    """Return the texts of the documents of a request.

    An object is represented by its ``rank_fields``, one ``name: value`` per line. Without ``rank_fields``, it is
    represented by its field ``text`` or, if that is missing, by all fields that are texts or numbers.
    """
    return [_document_text(document, rank_fields, position) for position, document in enumerate(documents)]


def _document_text(document: GivenDocument, rank_fields: Sequence[str] | None, position: int) -> str:
    if isinstance(document, str):
        return document
    if not rank_fields and isinstance(document.get("text"), str):
        return replace_lone_surrogates(str(document["text"]))
    named: Mapping[str, Any] = {name: document.get(name) for name in rank_fields} if rank_fields else document
    lines = [
        f"{name}: {value}" for name, value in named.items() if isinstance(value, (str, int, float)) and value != ""
    ]
    if not lines:
        found = f"Document {position} has no text: its fields are {error_repr(list(document), 200)}"
        raise DataError(found, expected="a field that is a text or a number")
    return replace_lone_surrogates("\n".join(lines))

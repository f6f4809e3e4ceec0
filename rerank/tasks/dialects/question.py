"""Types that the formats of all rerank APIs (dialects) share: a question, its answer, documents and spans."""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from rerank.errors import DataError, error_repr
from rerank.io.text_files import replace_lone_surrogates

#: A text of a request. Lone surrogates in JSON are replaced, since no tokenizer and no response can encode them.
GivenText = Annotated[str, AfterValidator(replace_lone_surrogates)]

#: A document of a request: a text, or an object of fields.
GivenDocument = GivenText | dict[str, Any]

T = TypeVar("T")
#: A list of a request. Only its first wrong element is an error: a body can have millions of them.
GivenList = Annotated[list[T], Field(fail_fast=True)]

_MAX_PARTS = 1000  #: Maximum number of parts of one document.
#: Names of the fields that represent a document.
RankFields = Annotated[GivenList[str], Field(max_length=100), AfterValidator(lambda names: list(dict.fromkeys(names)))]


def _no_boolean(value: Any) -> Any:
    """Refuse true and false, which Python would read as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "a number")
    return value


#: Numbers of a request.
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Number = Annotated[float, BeforeValidator(_no_boolean)]


#: Mark of a field that cannot be obeyed: any value except null and its default is an error.
REFUSED = "refused"
#: Mark of a field that does not change which documents are returned, nor their scores; any value is accepted.
NO_EFFECT = "no effect"

#: Fields that contain the documents of a request; a request has one of them.
_DOCUMENT_FIELDS = ("documents", "texts", "input", "passages")


#: Base64 without a head; at least as long as the smallest picture, so that names of files are no pictures.
_BASE64 = re.compile(r"[A-Za-z0-9+/]{60,}={0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSettings:
    """Settings for the evidence spans that a client requests."""

    #: Minimum share of a document's attention that every unit in a span receives; None makes every unit a span.
    threshold: float | None = 0.1
    unit: Literal["sentence", "word"] = "sentence"  # what spans consist of
    max_spans: int | None = None  # maximum number per document; None for all


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankQuestion:
    """The content of a rerank request, in a form that is independent of the API."""

    query: str
    documents: Sequence[str]  # the texts, in the order of the request
    #: The picture of each document, as an address or a ``data:`` URI, and empty for a document without one; empty if no
    #: document has a picture.
    pictures: Sequence[str] = ()
    model: str = ""
    top_n: int | None = None  # number of results; None for all
    returns_documents: bool = False  # whether results contain the texts
    scores: Sequence[float] | None = None  # first-stage scores, one per document
    instruction: str = ""  # what counts as relevant
    max_document_tokens: int | None = None  # None for the ranker's own limit
    deadline: float | None = None  # seconds for the whole ranking; None for the server's own limit
    spans: SpanSettings | None = None  # None to return no evidence spans
    threshold: float | None = None  # minimum unit score of a result; None for all
    max_query_tokens: int | None = None  # the query is cut to it; None for no limit
    max_pair_tokens: int | None = None  # tokens of query and document together; the document is cut
    truncates: bool = True  # whether documents that are longer than the context are cut; otherwise they are an error
    #: ``unit`` for the unit scores of the hits, ``logit`` for the judge's logits, which are required, or ``logit if
    #: known``.
    scale: Literal["unit", "logit", "logit if known"] = "unit"
    warnings: Sequence[str] = ()  # about fields of the request that are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceOfDocument:
    """A span of a document that received much attention: code points [start, end) and its score."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocument:
    """One document in the answer to a rerank request."""

    index: int  # position of the document in the request, from 0
    #: Strictly decreasing along the results: `Hit.unit_score`, or the logit if the client asked for it.
    relevance_score: float
    #: None if the client did not request evidence spans or the method cannot compute them.
    spans: tuple[EvidenceOfDocument, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankAnswer:
    """The answer to a rerank request, in a form that is independent of the API."""

    id: str
    model: str  # name of the model that answered
    question: RerankQuestion
    results: Sequence[RankedDocument]  # best first
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0  # prompt tokens that were taken from a cache
    warnings: Sequence[str] = field(default_factory=tuple)  # about problems with the scores or the order

    @property
    def tokens(self) -> int:
        """Number of prompt and completion tokens."""
        return self.tokens_in + self.tokens_out

    def text(self, result: RankedDocument) -> str | None:
        """Return the text of a result, if the client requested the texts."""
        return self.question.documents[result.index] if self.question.returns_documents else None


class ApiBody(BaseModel):
    """Base class of request and response bodies. Unknown fields are ignored, since newer versions may add fields."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())


class ScoringBody(ApiBody):
    """Base class of the requests for scores: vLLM's fields, which our server accepts in every dialect."""

    model_config = ConfigDict(extra="allow")  # so that unknown fields can be named in a warning

    #: What counts as relevant; named ``instruct`` by Jina's and Qwen's clients.
    instruction: GivenText | None = Field(default=None, validation_alias=AliasChoices("instruction", "instruct"))
    max_tokens_per_query: Whole | None = Field(default=None, ge=0)  # 0 for no limit
    #: Tokens of query and document together, without the words of the prompt; -1 for those of the model.
    truncate_prompt_tokens: Whole | None = Field(default=None, ge=-1)
    truncation_side: Annotated[Literal["left", "right"] | None, REFUSED] = "right"
    use_activation: bool | None = None  # false for logits, as ``raw_scores`` of TEI and Infinity
    raw_scores: bool = False
    user: Annotated[Any, NO_EFFECT] = None
    request_id: Annotated[Any, NO_EFFECT] = None
    priority: Annotated[Any, NO_EFFECT] = None
    cache_salt: Annotated[Any, NO_EFFECT] = None
    padding: Annotated[Literal["max_length", "do_not_pad"] | None, REFUSED] = "do_not_pad"
    add_special_tokens: Annotated[bool | None, REFUSED] = True
    chat_template_kwargs: Annotated[dict[str, Any] | None, REFUSED] = None
    mm_processor_kwargs: Annotated[dict[str, Any] | None, REFUSED] = None

    @property
    def raw(self) -> bool:
        """Whether the client asks for logits."""
        return self.raw_scores or self.use_activation is False

    def limits(self, *, scale: Literal["unit", "logit if known"] = "unit", **fields: Any) -> RerankQuestion:
        """Return a question with the given fields and those of this class, after checking fields that are not obeyed.

        Raises `DataError` if a field is refused or given twice under different names. Unknown fields cause a warning.
        """
        unknown = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        for name, info in type(self).model_fields.items():
            given, default = getattr(self, name), info.default
            if REFUSED in info.metadata and given is not None and str(given).lower() != str(default).lower():
                expected = "no such field" if default is None else str(default).lower()
                found = f"{name} is {error_repr(given, 100)}, which this server cannot do"
                raise DataError(found, expected=expected)
            choices = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else [name]
            for other in unknown.keys() & set(choices):
                if unknown.pop(other) != given:
                    named = " or ".join(choice for choice in map(str, choices) if choice != other)
                    raise DataError(f"{other} has another value than {named}", expected="one of them")
            if name in _DOCUMENT_FIELDS and (others := unknown.keys() & set(_DOCUMENT_FIELDS)):
                raise DataError(f"The request has {min(others)} beside {name}", expected="one of them")
        names = ", ".join(error_repr(name, 40) for name in list(unknown)[:5])
        return RerankQuestion(
            instruction=self.instruction or "",
            max_query_tokens=self.max_tokens_per_query or None,
            max_pair_tokens=max(0, self.truncate_prompt_tokens or 0) or None,
            scale="logit" if self.raw else scale,
            warnings=[f"Fields that this server does not know have no effect: {names}"] if unknown else [],
            **fields,
        )


class RerankBody(ScoringBody):
    """Base class of the requests of all dialects, with the fields that our server accepts in each of them."""

    #: Milliseconds for the whole ranking. Documents that are not judged by then keep their order.
    deadline_ms: Number | None = Field(default=None, gt=0, le=86_400_000)
    scores: GivenList[Number] | None = None  # first-stage scores, one per document, in the order of the documents
    threshold: Number | None = Field(default=None, ge=0, le=1)  # minimum relevance score of a result

    @abstractmethod
    def to_question(self) -> RerankQuestion:
        """Convert the request to a `RerankQuestion`."""

    def question(self, **fields: Any) -> RerankQuestion:
        """Return a question with the given fields and those that all dialects have."""
        deadline = None if self.deadline_ms is None else self.deadline_ms / 1000
        return self.limits(scores=self.scores, threshold=self.threshold, deadline=deadline, **fields)


def document_texts(documents: Sequence[GivenDocument], rank_fields: Sequence[str] | None = None) -> list[str]:
    """Return the texts of the documents of a request.

    An object is represented by its ``rank_fields``, one ``name: value`` per line. Without ``rank_fields``, it is
    represented by its field ``text`` or, if that is missing, by all fields that are texts or numbers. The text of a
    picture may be empty.
    """
    texts = []
    for position, document in enumerate(map(_joined, documents)):
        if isinstance(document, str):
            text = document
        elif _picture(document):
            text = str(document.get("text") or "")
        elif not rank_fields and isinstance(document.get("text"), str):
            text = document["text"]
        else:
            named: Mapping[str, Any] = {name: document.get(name) for name in rank_fields} if rank_fields else document
            values = {name: value for name, value in named.items() if isinstance(value, (str, int, float))}
            text = "\n".join(f"{name}: {value}" for name, value in values.items() if value != "")
            if not text:
                found = f"Document {position} has no text: its fields are {error_repr([*islice(document, 20)], 200)}"
                raise DataError(found, expected="a field that is a text or a number")
        texts.append(replace_lone_surrogates(text))
    return texts


def document_pictures(documents: Sequence[GivenDocument]) -> tuple[str, ...]:
    """Return the picture of each document of a request, as in `RerankQuestion.pictures`.

    A picture stands in ``image`` (Jina) or ``image_url`` (vLLM, a text or an object with ``url``), as an address, as a
    ``data:`` URI or, as Jina's clients send it, as base64 alone. Paths of files are refused.
    """
    found = tuple("" if isinstance(document, str) else _picture(document) for document in map(_joined, documents))
    return found if any(found) else ()


def _joined(document: GivenDocument) -> GivenDocument:
    """Return a document of parts, such as vLLM's ``{"content": [...]}``, as one object of fields."""
    parts = document.get("content") if isinstance(document, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return document
    if len(parts) > _MAX_PARTS:
        raise DataError(f"A document has {len(parts)} parts", expected=f"at most {_MAX_PARTS}")
    pictures = [part for part in parts if _picture(part)]
    if len(pictures) > 1:
        raise DataError(f"A document has {len(pictures)} pictures", expected="at most one picture per document")
    text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return {**(pictures[0] if pictures else {}), "text": text}


def _picture(document: Mapping[str, Any]) -> str:
    given = document.get("image") or document.get("image_url") or ""
    if isinstance(given, Mapping):
        given = given.get("url") or ""
    if not isinstance(given, str) or not given or given.startswith(("data:", "http://", "https://")):
        return given if isinstance(given, str) else ""
    if _BASE64.fullmatch(given):
        return f"data:application/octet-stream;base64,{given}"
    raise DataError(
        f"A document has the picture {error_repr(given)}",
        expected="a data: URI with base64, or an https address; files of the server are not read",
    )

"""Bodies of rerank and score APIs: Cohere, Jina, vLLM, Voyage, Mixedbread, SGLang, TEI, ZeroEntropy, NIM and others.

A request can be converted to a `RerankQuestion`, and a response is created from a `RerankAnswer`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from rerank.errors import DataError
from rerank.tasks.dialects.question import (
    NO_EFFECT,
    REFUSED,
    ApiBody,
    GivenDocument,
    GivenList,
    GivenText,
    Number,
    RankFields,
    RerankAnswer,
    RerankBody,
    RerankQuestion,
    ScoringBody,
    SpanSettings,
    Whole,
    document_pictures,
    document_texts,
)

# Cohere, version 2: ``POST /v2/rerank``


class RelevantSpans(ApiBody):
    """Settings for returning the relevant spans of documents: mode, minimum score and maximum number per document."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["enabled", "disabled"] = "disabled"
    threshold: Number | None = Field(default=None, ge=0, le=1)
    max_spans: Whole | None = Field(default=None, ge=1)


class CohereRequest(RerankBody):
    """A request of Cohere's rerank API, version 2. If ``top_n`` is 0, all results are returned."""

    model: str = ""
    query: GivenText
    documents: GivenList[GivenDocument]
    top_n: Whole | None = Field(default=None, ge=0, validation_alias=AliasChoices("top_n", "top_k"))
    max_tokens_per_doc: Whole | None = Field(default=None, ge=0)
    return_documents: bool = False
    relevant_spans: RelevantSpans | None = None

    def to_question(self) -> RerankQuestion:
        asked = self.relevant_spans
        spans = None
        if asked is not None and asked.mode == "enabled":
            defaults = SpanSettings()
            threshold = defaults.threshold if asked.threshold is None else asked.threshold
            spans = SpanSettings(threshold=threshold, max_spans=asked.max_spans)
        return self.question(
            query=self.query,
            documents=document_texts(self.documents),
            pictures=document_pictures(self.documents),
            model=self.model,
            top_n=self.top_n or None,
            returns_documents=self.return_documents,
            max_document_tokens=self.max_tokens_per_doc or None,
            spans=spans,
        )


# The names of the bodies are those of the schemas in the OpenAPI description, and of classes in generated clients.


class CohereSpan(ApiBody):
    """A relevant span, in code points [start, end) of the document."""

    start: int
    end: int
    score: float


class CohereDocument(ApiBody):
    """The document of a result, returned on request, as an object that contains its text."""

    text: str


class ScoredDocument(ApiBody):
    """Index and relevance score of one document."""

    index: int
    relevance_score: float


class CohereResult(ScoredDocument):
    """A result of Cohere's rerank API, with the spans and the text of the document if they were requested."""

    relevant_spans: list[CohereSpan] | None = None
    document: CohereDocument | None = None


class CohereResponse(ApiBody):
    """A response of Cohere's rerank API, version 2. ``meta`` has the version, tokens, billed units and warnings."""

    id: str
    results: list[CohereResult]
    meta: dict[str, Any]

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> CohereResponse:
        results = [
            CohereResult(
                index=result.index,
                relevance_score=result.relevance_score,
                relevant_spans=None
                if result.spans is None
                else [CohereSpan(start=span.start, end=span.end, score=span.score) for span in result.spans],
                document=None if (text := answer.text(result)) is None else CohereDocument(text=text),
            )
            for result in answer.results
        ]
        return cls(id=answer.id, results=results, meta=cohere_meta(answer, version="2"))


def cohere_meta(answer: RerankAnswer, *, version: str) -> dict[str, Any]:
    """Return the field ``meta`` of a response, for the given version of the API."""
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": answer.tokens_in, "output_tokens": answer.tokens_out},
        "cached_tokens": answer.tokens_cached,
    }
    if answer.warnings:
        meta["warnings"] = list(answer.warnings)
    return meta


# One request body and one response body for Cohere version 1, Jina, vLLM and Voyage. The response contains the results
# twice: in ``results`` for Cohere, Jina and vLLM, and in ``data`` for Voyage.


class DocumentParts(ApiBody):
    """Documents of vLLM's API for texts and pictures, each of which is a part: ``text`` or ``image_url``."""

    content: GivenList[dict[str, Any]]


class CommonRequest(RerankBody):
    """A request of any of these rerank APIs, Infinity or llama.cpp's server.

    If ``top_n`` is 0, all results are returned, as in vLLM.

    The field ``results`` of the response contains the texts unless ``return_documents`` is false.
    """

    model: str = ""
    query: GivenText
    documents: GivenList[GivenDocument] | DocumentParts
    top_n: Whole | None = Field(default=None, ge=0, validation_alias=AliasChoices("top_n", "top_k"))
    return_documents: bool | None = None
    rank_fields: RankFields | None = None
    max_tokens_per_doc: Whole | None = Field(default=None, ge=0)
    truncation: bool | None = None  # Voyage
    latency: Annotated[Any, NO_EFFECT] = None  # ZeroEntropy
    max_chunks_per_doc: Annotated[Any, NO_EFFECT] = None  # documents are not divided into chunks
    return_embeddings: Annotated[bool | None, REFUSED] = False

    def to_question(self) -> RerankQuestion:
        documents = self.documents.content if isinstance(self.documents, DocumentParts) else self.documents
        return self.question(
            query=self.query,
            documents=document_texts(documents, self.rank_fields),
            pictures=document_pictures(documents),
            model=self.model,
            top_n=self.top_n or None,
            returns_documents=self.return_documents is not False,
            max_document_tokens=self.max_tokens_per_doc or None,
            truncates=self.truncation is not False,
        )


class CommonDocument(CohereDocument):
    """The document of a result, as an object that contains its text."""


class CommonResult(ScoredDocument):
    """A result for Cohere version 1, Jina and vLLM."""

    document: CommonDocument | None = None


class VoyageResult(ScoredDocument):
    """A result for Voyage, in which the document is a plain text."""

    document: str | None = None


class CommonUsage(ApiBody):
    """Numbers of prompt tokens and of all tokens."""

    prompt_tokens: int
    total_tokens: int


class CommonResponse(ApiBody):
    """A response that clients of all four APIs can parse."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[CommonResult]
    data: list[VoyageResult]
    usage: CommonUsage
    meta: dict[str, Any]

    @classmethod
    def from_answer(cls, answer: RerankAnswer, *, repeats_documents: bool = False) -> CommonResponse:
        """Convert an answer. With ``repeats_documents``, ``data`` has the texts too: Voyage's clients request them."""
        results, data = [], []
        for result in answer.results:
            index, score, text = result.index, result.relevance_score, answer.text(result)
            document = None if text is None else CommonDocument(text=text)
            results.append(CommonResult(index=index, relevance_score=score, document=document))
            shown = text if repeats_documents else None
            data.append(VoyageResult(index=index, relevance_score=score, document=shown))
        return cls(
            id=answer.id,
            model=answer.model,
            results=results,
            data=data,
            usage=CommonUsage(prompt_tokens=answer.tokens_in, total_tokens=answer.tokens),
            meta=cohere_meta(answer, version="1"),
        )


# Mixedbread: ``POST /v1/reranking``


class MixedbreadRequest(RerankBody):
    """A request of Mixedbread's rerank API."""

    model: str = ""
    query: GivenText
    input: GivenList[GivenDocument]
    top_k: Whole | None = Field(default=None, ge=1, validation_alias=AliasChoices("top_k", "top_n"))
    return_input: bool = False
    rank_fields: RankFields | None = None
    rewrite_query: Annotated[bool | None, REFUSED] = False

    def to_question(self) -> RerankQuestion:
        return self.question(
            query=self.query,
            documents=document_texts(self.input, self.rank_fields),
            pictures=document_pictures(self.input),
            model=self.model,
            top_n=self.top_k,
            returns_documents=self.return_input,
        )


class MixedbreadResult(ApiBody):
    """Index and score of one document, with its text if ``return_input`` is true."""

    index: int
    score: float
    input: str | None = None
    object: Literal["rank_result"] = "rank_result"


class MixedbreadResponse(ApiBody):
    """A response of Mixedbread's rerank API."""

    object: Literal["list"] = "list"
    model: str
    data: list[MixedbreadResult]
    usage: CommonUsage
    top_k: int
    return_input: bool

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> MixedbreadResponse:
        return cls(
            model=answer.model,
            data=[
                MixedbreadResult(index=result.index, score=result.relevance_score, input=answer.text(result))
                for result in answer.results
            ],
            usage=CommonUsage(prompt_tokens=answer.tokens_in, total_tokens=answer.tokens),
            top_k=len(answer.results),
            return_input=answer.question.returns_documents,
        )


# SGLang, which responds with a list: ``POST /v1/rerank``, or ``/sglang/v1/rerank`` on our server


class SglangResult(ApiBody):
    """Index and score of one document, with its text if it was requested."""

    score: float
    document: str | None = None
    index: int
    meta_info: dict[str, Any]


def sglang_results(answer: RerankAnswer) -> list[SglangResult]:
    """Convert a `RerankAnswer` to the list of results that SGLang returns, best first."""
    info = {"id": answer.id, "prompt_tokens": answer.tokens_in, "warnings": list(answer.warnings)}
    return [
        SglangResult(score=result.relevance_score, document=answer.text(result), index=result.index, meta_info=info)
        for result in answer.results
    ]


# Text Embeddings Inference (TEI): ``POST /rerank`` with ``texts``; the response is a list


class TeiRequest(RerankBody):
    """A request of TEI's rerank API, or of llama.cpp's server, which also has the fields ``model`` and ``top_n``."""

    model: str = ""
    query: GivenText
    texts: GivenList[GivenText]
    top_n: Whole | None = Field(default=None, ge=0, validation_alias=AliasChoices("top_n", "top_k"))
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Annotated[Literal["Left", "Right", "left", "right"] | None, REFUSED] = "Right"

    def to_question(self) -> RerankQuestion:
        return self.question(
            query=self.query,
            documents=self.texts,
            model=self.model,
            top_n=self.top_n or None,
            returns_documents=self.return_text,
            truncates=self.truncate is not False,
        )


class TeiResult(ApiBody):
    """Index and score of one document, with its text if ``return_text`` is true."""

    index: int
    score: float
    text: str | None = None


def tei_results(answer: RerankAnswer) -> list[TeiResult]:
    """Convert a `RerankAnswer` to the list of results that TEI returns, best first."""
    return [
        TeiResult(index=result.index, score=result.relevance_score, text=answer.text(result))
        for result in answer.results
    ]


# NVIDIA NIM: ``POST /v1/ranking``


class NimQuery(ApiBody):
    """The query of a request, as an object that contains its text. Pictures and other contents are refused."""

    model_config = ConfigDict(extra="forbid")

    text: GivenText


class NimRequest(RerankBody):
    """A request of NVIDIA NIM's ranking API; ``truncate: NONE`` makes passages that are too long an error."""

    model: str = ""
    query: NimQuery
    passages: GivenList[dict[str, Any]]
    truncate: Literal["NONE", "END"] | None = None

    def to_question(self) -> RerankQuestion:
        return self.question(
            query=self.query.text,
            documents=document_texts(self.passages),
            pictures=document_pictures(self.passages),
            model=self.model,
            truncates=self.truncate != "NONE",
            scale="logit if known",
        )


class NimRanking(ApiBody):
    """Index of one passage, and its logit or, if the method has none, its relevance score."""

    index: int
    logit: float


class NimResponse(ApiBody):
    """A response of NVIDIA NIM's ranking API."""

    rankings: list[NimRanking]
    usage: CommonUsage

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> NimResponse:
        return cls(
            rankings=[NimRanking(index=result.index, logit=result.relevance_score) for result in answer.results],
            usage=CommonUsage(prompt_tokens=answer.tokens_in, total_tokens=answer.tokens),
        )


# ZeroEntropy: ``POST /v1/models/rerank``. Its requests are parsed as `CommonRequest`.


class ZeroentropyResult(ScoredDocument):
    """Index and relevance score of one document."""


class ZeroentropyResponse(ApiBody):
    """A response of ZeroEntropy's rerank API, without the latencies that ZeroEntropy reports."""

    results: list[ZeroentropyResult]
    total_bytes: int
    total_tokens: int

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> ZeroentropyResponse:
        texts = [answer.question.query, *answer.question.documents]
        return cls(
            results=[
                ZeroentropyResult(index=result.index, relevance_score=result.relevance_score)
                for result in answer.results
            ],
            total_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
            total_tokens=answer.tokens,
        )


# vLLM's score API, ``POST /score``: the scores of pairs of texts, in the order of the request


#: One text or several.
Texts = GivenText | GivenList[GivenText]


class ScoreRequest(ScoringBody):
    """A request of vLLM's score API: one query and any number of documents, or as many queries as documents.

    The field ``queries`` may also be named ``text_1`` or ``data_1``, and ``documents`` ``items``, ``text_2`` or
    ``data_2``.
    """

    model: str = ""
    queries: Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"), serialization_alias="text_1")
    documents: Texts = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"), serialization_alias="text_2"
    )
    max_tokens_per_doc: Whole | None = Field(default=None, ge=0)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the (query, document) pairs."""
        queries = [self.queries] if isinstance(self.queries, str) else self.queries
        documents = [self.documents] if isinstance(self.documents, str) else self.documents
        for number, query in enumerate(queries):
            if not query.strip():
                raise DataError(f"Query {number} is empty", expected="a text, without which no pair has a score")
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise DataError(
                f"The request contains {len(queries)} queries and {len(documents)} documents",
                expected="one query, or as many queries as documents",
            )
        return list(zip(queries, documents, strict=True))


class PairScore(ApiBody):
    """The score of a pair; ``index`` is the position of the pair in the request, from 0."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(ApiBody):
    """A response of vLLM's score API, with one score per pair."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PairScore]
    usage: CommonUsage


# Bodies of error responses, in the format of each API


class CohereError(ApiBody):
    """Body of an error response of Cohere's API, version 2."""

    message: str


class ErrorDetails(ApiBody):
    """The details of an error in the format of OpenAI and vLLM; ``code`` is the HTTP status."""

    message: str
    type: str
    param: str | None = None
    code: int


class OpenaiError(ApiBody):
    """Body of an error response of OpenAI's API."""

    error: ErrorDetails


class CommonError(ApiBody):
    """Body of an error response for Cohere 1 (``message``), Jina and Voyage (``detail``), and vLLM (``error``)."""

    message: str
    detail: str
    error: ErrorDetails


class TeiError(ApiBody):
    """Body of an error response of TEI."""

    error: str
    error_type: Literal["Validation", "Overloaded", "Backend"]


class SglangError(ErrorDetails):
    """Body of an error response of SGLang."""

    object: Literal["error"] = "error"

"""The fields that each rerank API documents, and what the server does with them, read from the models of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from rerank.tasks.dialects import rerank
from rerank.tasks.dialects.question import NO_EFFECT, REFUSED, ScoringBody

_SCORING = (
    "model user truncate_prompt_tokens padding truncation_side request_id priority mm_processor_kwargs cache_salt "
    "use_activation max_tokens_per_query max_tokens_per_doc instruction chat_template_kwargs add_special_tokens"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A rerank API: the fields of its requests, where they were read, and the model that parses them."""

    endpoint: str
    source: str
    model: type[ScoringBody]
    fields: str


DIALECTS: Mapping[str, Dialect] = {
    "Cohere 2": Dialect(
        endpoint="/v2/rerank",
        source="Python client cohere 7.3.1",
        model=rerank.CohereRequest,
        fields="model query documents top_n max_tokens_per_doc relevant_spans priority",
    ),
    "Cohere 1": Dialect(
        endpoint="/v1/rerank",
        source="the API reference of version 1, and LiteLLM 1.110",
        model=rerank.CommonRequest,
        fields="model query documents top_n rank_fields return_documents max_chunks_per_doc max_tokens_per_doc",
    ),
    "Jina": Dialect(
        endpoint="/v1/rerank",
        source="the requests of its clients; no specification was found",
        model=rerank.CommonRequest,
        fields="model query documents top_n return_documents return_embeddings",
    ),
    "Voyage": Dialect(
        endpoint="/v1/rerank",
        source="Python client voyageai 0.5",
        model=rerank.CommonRequest,
        fields="model query documents top_k return_documents truncation",
    ),
    "vLLM, rerank": Dialect(
        endpoint="/rerank, /v1/rerank, /v2/rerank",
        source="vllm-project/vllm, pooling/scoring/protocol.py at 5315868 and pooling/base/protocol.py at 020638a",
        model=rerank.CommonRequest,
        fields=f"query documents top_n {_SCORING}",
    ),
    "vLLM, score": Dialect(
        endpoint="/score, /v1/score",
        source="the same",
        model=rerank.ScoreRequest,
        fields=f"text_1 text_2 queries documents items data_1 data_2 {_SCORING}",
    ),
    "TEI": Dialect(
        endpoint="/rerank, with texts",
        source="huggingface/text-embeddings-inference 1.9.3 (0d124dc), router/src/http/types.rs",
        model=rerank.TeiRequest,
        fields="query texts truncate truncation_direction raw_scores return_text",
    ),
    "SGLang": Dialect(
        endpoint="/sglang/v1/rerank",
        source="V1RerankReqInput of SGLang's entrypoints/openai/protocol.py",
        model=rerank.CommonRequest,
        fields="query documents instruct top_n return_documents",
    ),
    "Mixedbread": Dialect(
        endpoint="/v1/reranking",
        source="mixedbread-ai/mixedbread-python, client_rerank_params.py",
        model=rerank.MixedbreadRequest,
        fields="model query input rank_fields top_k return_input rewrite_query",
    ),
    "ZeroEntropy": Dialect(
        endpoint="/v1/models/rerank",
        source="Python client zeroentropy 0.1.0a11",
        model=rerank.CommonRequest,
        fields="model query documents top_n latency",
    ),
    "NVIDIA NIM": Dialect(
        endpoint="/v1/ranking",
        source="NeMo Retriever Text Reranking NIM 2.3, and langchain-ai/langchain-nvidia at 038cacf",
        model=rerank.NimRequest,
        fields="model query passages truncate",
    ),
    "Infinity": Dialect(
        endpoint="/rerank",
        source="michaelfeil/infinity 0.0.77 (fcb951c), fastapi_schemas/pymodels.py",
        model=rerank.CommonRequest,
        fields="model query documents return_documents raw_scores top_n",
    ),
    "llama.cpp": Dialect(
        endpoint="/rerank, /reranking, /v1/rerank, /v1/reranking",
        source="tools/server, post_rerank; with texts as TEI",
        model=rerank.CommonRequest,
        fields="model query documents top_n",
    ),
}


def read_fields(dialect: Dialect) -> dict[str, dict[str, str]]:
    """Return the documented fields as ``obeyed``, ``refused`` (with the value that is accepted) and ``no effect``.

    It is a `KeyError` if the model lacks a field.
    """
    by_name: dict[str, FieldInfo] = {}
    for name, info in dialect.model.model_fields.items():
        choices = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else [name]
        by_name |= dict.fromkeys(map(str, choices), info)
    found: dict[str, dict[str, str]] = {"obeyed": {}, "refused": {}, "no effect": {}}
    for name in dialect.fields.split():
        info = by_name[name]
        if REFUSED in info.metadata:
            found["refused"][name] = "" if info.default is None else str(info.default).lower()
        else:
            found["no effect" if NO_EFFECT in info.metadata else "obeyed"][name] = ""
    return found


_MEANINGS = {"obeyed": "obeyed", "refused": "refused with 422", "no effect": "accepted; does not change the results"}


def describe_dialects(table: Callable[..., str]) -> Iterator[str]:
    """Yield one table per dialect; ``table`` writes it in Markdown."""
    for name, dialect in DIALECTS.items():
        rows = []
        for state, fields in read_fields(dialect).items():
            named = [f"`{field}`" + (f" (except `{value}`)" if value else "") for field, value in fields.items()]
            if named:
                rows.append((_MEANINGS[state], ", ".join(named)))
        yield f"**{name}**, `POST {dialect.endpoint}`; read in: {dialect.source}.\n"
        yield table(("the field is", "fields"), rows) + "\n"

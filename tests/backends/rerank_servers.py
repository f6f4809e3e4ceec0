"""Rerank servers on loopback that answer in the documented form of each API, well or badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.backends.faulty_server import Act, FaultyServer, error, models, raw

#: A result: the position of the document and its score.
Row = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Api:
    """An API as it is documented: where it is asked, how it names its inputs, and how it answers.

    Attributes:
        path: Path of the endpoint.
        documents: The field of the request with the documents.
        write: Makes the body of an answer from results.
        tokens: Number of prompt tokens that an answer states; 0 if it states none.
    """

    path: str
    documents: str
    write: Callable[[Sequence[Row]], Any]
    tokens: int = 0


def _rows(rows: Sequence[Row], name: str, **more: Any) -> list[dict[str, Any]]:
    return [{"index": index, name: score, **more} for index, score in rows]


def _cohere(rows: Sequence[Row]) -> Any:
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 2}}
    return {"id": "x", "results": _rows(rows, "relevance_score"), "meta": meta}


def _jina(rows: Sequence[Row]) -> Any:
    return {"model": "m", "usage": {"total_tokens": 77}, "results": _rows(rows, "relevance_score")}


def _voyage(rows: Sequence[Row]) -> Any:
    usage = {"total_tokens": 77}
    return {"object": "list", "data": _rows(rows, "relevance_score"), "model": "m", "usage": usage}


def _zeroentropy(rows: Sequence[Row]) -> Any:
    times = {"actual_latency_mode": "fast", "e2e_latency": 0.1, "inference_latency": 0.1}
    return {"results": _rows(rows, "relevance_score"), "total_bytes": 500, "total_tokens": 77, **times}


def _tei(rows: Sequence[Row]) -> Any:
    return _rows(rows, "score")


def _vllm(rows: Sequence[Row]) -> Any:
    usage = {"prompt_tokens": 77, "total_tokens": 77}
    return {"id": "x", "model": "m", "usage": usage, "results": _rows(rows, "relevance_score", document={"text": "x"})}


def _vllm_score(rows: Sequence[Row]) -> Any:
    usage = {"prompt_tokens": 77, "total_tokens": 77}
    head = {"id": "x", "object": "list", "created": 1, "model": "m"}
    return {**head, "data": _rows(rows, "score", object="score"), "usage": usage}


APIS: Mapping[str, Api] = {
    "cohere": Api(path="/v2/rerank", documents="documents", write=_cohere),
    "jina": Api(path="/v1/rerank", documents="documents", write=_jina, tokens=77),
    "voyage": Api(path="/v1/rerank", documents="documents", write=_voyage, tokens=77),
    "zeroentropy": Api(path="/v1/models/rerank", documents="documents", write=_zeroentropy, tokens=77),
    "tei": Api(path="/rerank", documents="texts", write=_tei),
    "vllm": Api(path="/v1/rerank", documents="documents", write=_vllm, tokens=77),
    "vllm-score": Api(path="/score", documents="text_2", write=_vllm_score, tokens=77),
}


def scored(name: str, change: Callable[[list[Row]], Sequence[Row]] = lambda rows: rows) -> Callable[[Any], Act]:
    """Answer with scores that reverse the documents; ``change`` spoils the results, which are the best first."""

    def answer(body: dict[str, Any]) -> Act:
        count = len(body[APIS[name].documents])
        rows = [(index, (index + 1) / count) for index in range(count)]
        return raw(APIS[name].write(change(rows[::-1])))

    return answer


def without(name: str, key: str) -> Callable[[Any], Act]:
    """Answer well except that a field is missing; a list becomes an object."""

    def answer(body: dict[str, Any]) -> Act:
        written = json.loads(scored(name)(body).body)
        return raw({field: value for field, value in written.items() if field != key} if key else {"results": written})

    return answer


def open_server(name: str, acts: Sequence[Any]) -> FaultyServer:
    """Return a server with one API; it describes itself as TEI and vLLM do."""
    server = FaultyServer(acts, path=APIS[name].path, listing=models("m", max_model_len=4096))
    server.gets["/info"] = raw({"model_id": "m", "max_input_length": 4096, "max_client_batch_size": 32})
    return server


__all__ = ["APIS", "Act", "error", "open_server", "scored", "without"]

"""Every component in one form, for the tests that all of them must pass."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Passage:
    """A passage with its metadata, and after the ranking with its score."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float | None = None
    embedding: list[float] | None = None  # only for frameworks whose documents have one


class ComponentForm:
    """How a component of a framework is built, called and stored; its documents are made from passages."""

    module = ""
    class_name = ""
    top_n = "top_n"

    def build(self, **options: Any) -> Any:
        options = {self.top_n if name == "top_n" else name: value for name, value in options.items()}
        return getattr(import_module(f"rerank.integrations.{self.module}"), self.class_name)(**options)

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        raise NotImplementedError

    async def arank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        raise NotImplementedError

    def store(self, component: Any, folder: Path) -> Any:
        """Write the component's settings, and build a component from them."""
        return pickle.loads(pickle.dumps(component))


class Langchain(ComponentForm):
    module, class_name = "langchain", "RerankerCompressor"

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(component.compress_documents(self._documents(passages), query))

    async def arank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(await component.acompress_documents(self._documents(passages), query))

    def store(self, component: Any, folder: Path) -> Any:
        return type(component).model_validate_json(component.model_dump_json())

    def _documents(self, passages: Sequence[Passage]) -> list[Any]:
        from langchain_core.documents import Document

        return [Document(page_content=passage.text, metadata=passage.metadata) for passage in passages]

    def _read(self, documents: Sequence[Any]) -> list[Passage]:
        metadata = [dict(document.metadata) for document in documents]
        scores = [given.pop("relevance_score") for given in metadata]
        return [Passage(d.page_content, m, s) for d, m, s in zip(documents, metadata, scores, strict=True)]


class LlamaIndex(ComponentForm):
    """LlamaIndex's node postprocessor; the metadata are not part of the text."""

    module, class_name = "llama_index", "RerankerPostprocessor"

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(component.postprocess_nodes(self._nodes(passages), query_str=query))

    async def arank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(await component.apostprocess_nodes(self._nodes(passages), query_str=query))

    def store(self, component: Any, folder: Path) -> Any:
        return type(component).from_json(component.to_json())

    def _nodes(self, passages: Sequence[Passage]) -> list[Any]:
        from llama_index.core.schema import NodeWithScore, TextNode

        return [
            NodeWithScore(
                node=TextNode(
                    text=passage.text,
                    metadata=passage.metadata,
                    excluded_embed_metadata_keys=list(passage.metadata),
                    embedding=passage.embedding,
                ),
                score=0.5,
            )
            for passage in passages
        ]

    def _read(self, nodes: Sequence[Any]) -> list[Passage]:
        return [Passage(node.node.text, node.node.metadata, node.score) for node in nodes]


class Haystack(ComponentForm):
    module, class_name, top_n = "haystack", "RerankerComponent", "top_k"

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(component.run(query=query, documents=self._documents(passages)))

    async def arank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(await component.run_async(query=query, documents=self._documents(passages)))

    def store(self, component: Any, folder: Path) -> Any:
        return type(component).from_dict(json.loads(json.dumps(component.to_dict())))

    def _documents(self, passages: Sequence[Passage]) -> list[Any]:
        from haystack import Document

        return [Document(content=p.text, meta=p.metadata, embedding=p.embedding) for p in passages]

    def _read(self, output: dict[str, Any]) -> list[Passage]:
        return [Passage(document.content, document.meta, document.score) for document in output["documents"]]


class Pyterrier(ComponentForm):
    """PyTerrier's transformer; first-stage scores decrease along the list. It has no async interface."""

    module, class_name = "pyterrier", "RerankerTransformer"

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        import pandas as pd

        rows = [
            {
                **{"qid": "q1", "query": query, "docno": "same", "text": passage.text},
                **{"score": -float(rank), "rank": rank, "metadata": passage.metadata},
            }
            for rank, passage in enumerate(passages)
        ]
        columns = ["qid", "query", "docno", "text", "score", "rank", "metadata"]
        output = component.transform(pd.DataFrame(rows, columns=columns))
        assert list(output["rank"]) == list(range(len(output)))
        return [Passage(row.text, row.metadata, row.score) for row in output.itertuples()]


class Dspy(ComponentForm):
    module, class_name = "dspy", "RerankerModule"

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(component(query=query, passages=self._passages(passages)))

    async def arank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        return self._read(await component.acall(query=query, passages=self._passages(passages)))

    def store(self, component: Any, folder: Path) -> Any:
        import dspy

        component.save(str(folder / "program"), save_program=True)
        return dspy.load(str(folder / "program"), allow_pickle=True)

    def _passages(self, passages: Sequence[Passage]) -> list[Any]:
        return [{"text": passage.text, "metadata": passage.metadata} for passage in passages]

    def _read(self, prediction: Any) -> list[Passage]:
        rows = zip(prediction.passages, prediction.scores, strict=True)
        return [Passage(passage["text"], passage["metadata"], score) for passage, score in rows]


class CrossEncoder(ComponentForm):
    """The interface of sentence-transformers' cross-encoder; documents are texts. It has no async interface."""

    module, class_name = "cross_encoder", "RerankerCrossEncoder"

    def rank(self, component: Any, query: str, passages: Sequence[Passage]) -> list[Passage]:
        rows = component.rank(query, [passage.text for passage in passages], return_documents=True)
        return [Passage(row["text"], passages[row["corpus_id"]].metadata, row["score"]) for row in rows]

    def store(self, component: Any, folder: Path) -> Any:
        return type(component).model_validate_json(component.model_dump_json())


FORMS = {form.module: form for form in (Langchain(), LlamaIndex(), Haystack(), Pyterrier(), Dspy(), CrossEncoder())}
ASYNC = ("langchain", "llama_index", "haystack", "dspy")

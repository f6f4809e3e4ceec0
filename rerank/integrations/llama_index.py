"""A reranker for LlamaIndex, as a node postprocessor for query engines. It requires the extra ``llama-index``."""

from __future__ import annotations

from typing import Any

from rerank.errors import UsageError
from rerank.integrations.framework_reranker import FrameworkReranker, RankedPositions, missing_framework_error

try:
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise missing_framework_error("llama-index", error) from error

_DISPATCHER = get_dispatcher(__name__)


class RerankerPostprocessor(FrameworkReranker, BaseNodePostprocessor):
    """A node postprocessor that reranks, and sends LlamaIndex's start and end events of rerankers.

    The texts to rank are those that nodes provide for embedding models, including metadata. The nodes are returned best
    first, in new `NodeWithScore` objects with the relevance score.
    """

    @classmethod
    def class_name(cls) -> str:
        return cls.__name__

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = self._start(nodes, query_bundle)
        return _end(nodes, self.rank_positions(query, _contents(nodes)))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = self._start(nodes, query_bundle)
        return _end(nodes, await self.arank_positions(query, _contents(nodes)))

    def _start(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None) -> str:
        """Send LlamaIndex's start event of a reranker, and return the query as text."""
        if query_bundle is None:
            raise UsageError("No query was passed", expected="query_bundle or query_str")
        top_n = len(nodes) if self.top_n is None else self.top_n
        _DISPATCHER.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=self.describe_model())
        )
        return str(query_bundle.query_str)


def _contents(nodes: list[NodeWithScore]) -> list[dict[str, Any]]:
    return [
        {"text": node.node.get_content(metadata_mode=MetadataMode.EMBED), "embedding": node.node.embedding}
        for node in nodes
    ]


def _end(nodes: list[NodeWithScore], positions: RankedPositions) -> list[NodeWithScore]:
    ranked = [NodeWithScore(node=nodes[position].node, score=score) for position, score in positions]
    _DISPATCHER.event(ReRankEndEvent(nodes=ranked))
    return ranked

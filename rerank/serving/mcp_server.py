"""MCP server with tools for language model applications: rerank documents, search a collection, compare runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field
from starlette.applications import Starlette

from rerank.serving.api_errors import api_error_from_exception
from rerank.serving.host_check import HostCheckMiddleware
from rerank.serving.key_check import KeyCheckMiddleware
from rerank.serving.ranking_service import RankingService
from rerank.serving.run_comparison import RunFolders
from rerank.serving.search_routes import CollectionSearch, SearchRequest, SearchResponse, search_and_rerank
from rerank.serving.server_keys import ServerKeys
from rerank.serving.settings import ServerSettings
from rerank.serving.unexpected_errors import UnexpectedErrorMiddleware, log_unexpected_error
from rerank.tasks.dialects.cohere import CohereRequest, CohereResponse

T = TypeVar("T")

#: Name of the client in the queue: the server does not distinguish MCP clients.
_CLIENT = "mcp"


def create_mcp_server(
    service: RankingService, *, search: CollectionSearch | None = None, runs: RunFolders | None = None
) -> MCPServer[Any]:
    """Create the MCP server. The server does not log the arguments of tools, since these contain texts.

    Args:
        service: Service that ranks documents.
        search: Search over a collection; if None, the server has no tool `search`.
        runs: Folders of the runs that may be compared; if None, the server has no tool `compare_runs`.
    """
    server: MCPServer[Any] = MCPServer("listrank", version=version("listrank"), log_level="WARNING")
    _add_rerank_tool(server, service)
    if search is not None:
        _add_search_tool(server, service, search)
    if runs is not None:
        _add_compare_tool(server, runs, service.settings.timeout)
    return server


def create_mcp_http_app(server: MCPServer[Any], keys: ServerKeys, settings: ServerSettings | None = None) -> Starlette:
    """Return an application that serves the tools at ``/mcp`` over streamable HTTP.

    Args:
        server: The MCP server.
        keys: Keys that clients may use; if there are none, host names are checked (`HostCheckMiddleware`).
        settings: Allowed host names and body size limit; None for the defaults.
    """
    settings = settings or ServerSettings()
    app = server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=settings.max_body_bytes,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=False
        ),  # HostCheckMiddleware does it
    )
    app.add_middleware(KeyCheckMiddleware, keys=keys)
    if not keys.digests:
        app.add_middleware(HostCheckMiddleware, names=settings.allowed_hosts)
    app.add_middleware(UnexpectedErrorMiddleware)
    return app


def _add_rerank_tool(server: MCPServer[Any], service: RankingService) -> None:
    @server.tool()
    async def rerank(
        query: Annotated[str, Field(description="Query for which the documents are ranked.")],
        documents: Annotated[list[str | dict[str, Any]], Field(description="Texts, or objects with a field text.")],
        top_n: Annotated[int | None, Field(ge=1, description="Number of results; all if omitted.")] = None,
    ) -> CohereResponse:
        """Order documents by their relevance to a query, best first; index is the position in the given list."""
        body = CohereRequest(query=query, documents=[*documents], top_n=top_n, return_documents=True)

        async def answer() -> CohereResponse:
            return CohereResponse.from_answer(await service.answer(body.to_question(), _CLIENT))

        return await _report_errors(answer(), service.settings.timeout)


def _add_search_tool(server: MCPServer[Any], service: RankingService, search: CollectionSearch) -> None:
    @server.tool("search", description=f"Search the collection {search.name!r}, and rerank the documents found.")
    async def search_tool(
        query: Annotated[str, Field(description="Search query.")],
        top_n: Annotated[int, Field(ge=1, le=1000, description="Number of results.")] = 10,
        depth: Annotated[int, Field(ge=1, le=1000, description="Number of documents to rerank.")] = 100,
    ) -> SearchResponse:
        body = SearchRequest(query=query, top_n=top_n, depth=depth)
        return await _report_errors(search_and_rerank(service, search, body, _CLIENT), service.settings.timeout)


def _add_compare_tool(server: MCPServer[Any], runs: RunFolders, timeout: float) -> None:
    folders = ", ".join(str(folder) for folder in runs.folders)

    @server.tool(description=f"Test differences between runs for significance. Files are in: {folders}.")
    async def compare_runs(
        run_files: Annotated[list[str], Field(min_length=2, max_length=50, description="Run files in TREC format.")],
        qrels_file: Annotated[str, Field(description="File of relevance judgments.")],
        measures: Annotated[list[str] | None, Field(description="Measures such as nDCG@10, the default.")] = None,
        test: Annotated[str, Field(description="Paired test: t, wilcoxon, sign, permutation or bootstrap.")] = "t",
    ) -> dict[str, Any]:
        work = asyncio.to_thread(runs.compare, run_files, qrels_file, measures or ["nDCG@10"], test)
        return await _report_errors(work, timeout)


async def _report_errors(work: Awaitable[T], timeout: float) -> T:
    """Return the result of ``work``, and convert any exception into an error that MCP clients receive."""
    try:
        async with asyncio.timeout(timeout):
            return await work
    except Exception as error:  # noqa: BLE001 - clients get any error
        answer = api_error_from_exception(error)
        if answer.status == 500:
            log_unexpected_error("A tool", error)
        raise ToolError(answer.message) from None  # the cause may contain texts, and the SDK logs it

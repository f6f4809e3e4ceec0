"""MCP server with tools for language model applications: rerank documents, search a collection, compare runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field
from starlette.applications import Starlette

from rerank.errors import MissingResourceError, ensure, error_repr
from rerank.evaluation.comparison import compare_evaluated_measures, score_compared_runs
from rerank.evaluation.pairwise_decisions import ComparisonOptions, options_of_test
from rerank.evaluation.significance import open_significance_test, tests
from rerank.io.run_files import read_qrels, read_run
from rerank.selector import Selector
from rerank.serving import errors
from rerank.serving.middleware import AccessMiddleware, UnexpectedErrorMiddleware
from rerank.serving.ranking_service import RankingService
from rerank.serving.search_routes import CollectionSearch, SearchRequest, SearchResponse, search_and_rerank
from rerank.serving.settings import ServerKeys, ServerSettings
from rerank.tasks.dialects.rerank import CohereRequest, CohereResponse

T = TypeVar("T")

#: Limits of a comparison: random draws of its test, and runs times measures.
_MAX_DRAWS, _MAX_SCORED = 100_000, 200
#: Maximum number of comparisons at the same time. One that has begun ends even if its caller has left.
_COMPARISONS = 2
_CLIENT = "mcp"  #: Name of the client in the queue: the server does not distinguish MCP clients.


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Folders whose run files, and relevance judgments, clients may name in comparisons. No other file is read."""

    folders: Sequence[Path]

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not folder.is_dir():
                raise MissingResourceError(f"{str(folder)!r} is not a folder", expected="a folder of run files")

    def find(self, name: str) -> Path:
        """Return the path of a file in the folders; ``name`` is absolute or relative to one of the folders."""
        for folder in self.folders:
            with suppress(OSError, ValueError):  # a name that is too long or contains a null character
                path = (folder / name).resolve()
                if path.is_relative_to(folder.resolve()) and path.is_file():
                    return path
        raise MissingResourceError(
            f"{error_repr(name, 200)} is not a file in the folders of this server",
            expected=f"a file in {', '.join(str(folder) for folder in self.folders)}",
        )

    def compare(self, runs: Sequence[str], qrels: str, measures: Sequence[str], test: str) -> dict[str, Any]:
        """Compare runs, which are named like their files, and return the content of `rerank compare --format json`."""
        scored = len(runs) * len(measures)
        ensure(
            scored <= _MAX_SCORED,
            f"{len(runs)} runs and {len(measures)} measures are {scored} evaluations",
            expected=f"at most {_MAX_SCORED}",
        )
        if Selector.parse(test).name in tests:
            draws = options_of_test(open_significance_test(test)).get("permutations", 0)
            ensure(
                draws <= _MAX_DRAWS,
                f"permutations is {draws}",
                expected=f"at most {_MAX_DRAWS}",
                remedy="Use rerank compare for more",
            )
        opened = [read_run(self.find(name), name=name) for name in runs]
        compared = score_compared_runs(read_qrels(self.find(qrels)), opened, measures)
        result = compare_evaluated_measures(compared.scores, compared.measures, ComparisonOptions(test=test))
        return result.with_notes(compared.notes).to_dict()


def create_mcp_server(
    service: RankingService, *, search: CollectionSearch | None = None, runs: RunFolders | None = None
) -> MCPServer[Any]:
    """Create the MCP server. The server does not log the arguments of tools, since these contain texts."""
    server: MCPServer[Any] = MCPServer("listrank", version=version("listrank"), log_level="WARNING")
    timeout = service.settings.timeout
    comparisons = ThreadPoolExecutor(_COMPARISONS, "compare-runs")  # their own, so that rankings have threads

    @server.tool()
    async def rerank(
        query: Annotated[str, Field(description="Query for which the documents are ranked.")],
        documents: Annotated[
            list[str | dict[str, Any]],  # counted before its elements are checked, and then by the server's own limit
            Field(max_length=100_000, fail_fast=True, description="Texts, or objects with a field text."),
        ],
        top_n: Annotated[int | None, Field(ge=1, description="Number of results; all if omitted.")] = None,
    ) -> CohereResponse:
        """Order documents by their relevance to a query, best first; index is the position in the given list."""
        body = CohereRequest(query=query, documents=[*documents], top_n=top_n, return_documents=True)

        async def answer() -> CohereResponse:
            return CohereResponse.from_answer(await service.answer(body.to_question(), _CLIENT))

        return await _report_errors(answer(), timeout)

    if search is not None:

        @server.tool(
            "search", description=f"Search the collection {search.corpus.name!r}, and rerank the documents found."
        )
        async def search_tool(
            query: Annotated[str, Field(description="Search query.")],
            top_n: Annotated[int, Field(ge=1, le=1000, description="Number of results.")] = 10,
            depth: Annotated[int, Field(ge=1, le=1000, description="Number of documents to rerank.")] = 100,
        ) -> SearchResponse:
            body = SearchRequest(query=query, top_n=top_n, depth=depth)
            return await _report_errors(search_and_rerank(service, search, body, _CLIENT), timeout)

    if runs is not None:
        folders = ", ".join(str(folder) for folder in runs.folders)

        @server.tool(description=f"Test differences between runs for significance. Files are in: {folders}.")
        async def compare_runs(
            run_files: Annotated[
                list[str], Field(min_length=2, max_length=50, fail_fast=True, description="Run files in TREC format.")
            ],
            qrels_file: Annotated[str, Field(description="File of relevance judgments.")],
            measures: Annotated[
                list[str] | None, Field(max_length=20, description="Measures such as nDCG@10, the default.")
            ] = None,
            test: Annotated[str, Field(description="Paired test: t, wilcoxon, sign, permutation or bootstrap.")] = "t",
        ) -> dict[str, Any]:
            compare = partial(runs.compare, run_files, qrels_file, measures or ["nDCG@10"], test)
            return await _report_errors(asyncio.get_running_loop().run_in_executor(comparisons, compare), timeout)

    return server


def create_mcp_http_app(server: MCPServer[Any], keys: ServerKeys, settings: ServerSettings | None = None) -> Starlette:
    """Return an application with the tools at ``/mcp`` over streamable HTTP; without keys, host names are checked."""
    settings = settings or ServerSettings()
    unprotected = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # AccessMiddleware does it
    app = server.streamable_http_app(
        stateless_http=True, max_request_body_size=settings.max_body_bytes, transport_security=unprotected
    )
    app.add_middleware(AccessMiddleware, keys=keys, names=settings.allowed_hosts)
    app.add_middleware(UnexpectedErrorMiddleware)
    return app


async def _report_errors(work: Awaitable[T], timeout: float) -> T:
    """Return the result of ``work``, and convert any exception into an error that MCP clients receive."""
    try:
        async with asyncio.timeout(timeout):
            return await work
    except Exception as error:  # noqa: BLE001 - clients get any error
        answer = errors.from_exception(error)
        if answer.status == 500:
            errors.log_unexpected("A tool", error)
        raise ToolError(answer.message) from None  # the cause may contain texts, and the SDK logs it

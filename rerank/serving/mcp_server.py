"""MCP server with tools for language model applications: what the main commands do, on request data and on files."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations
from pydantic import Field, ValidationError
from starlette.applications import Starlette

from rerank import evaluation
from rerank.errors import MissingResourceError, UsageError, ensure, error_repr
from rerank.evaluation.baseline_comparison import compare_with_baseline
from rerank.evaluation.baseline_tests import is_baseline_test
from rerank.evaluation.comparison import compare_evaluated_measures, notes_on_judgments, score_compared_runs
from rerank.evaluation.pairwise_decisions import ComparisonOptions, build_test_selector
from rerank.experiment import explain
from rerank.io.run_files import read_qrels, read_run
from rerank.models import MODELS, list_models, list_rerankers
from rerank.serving import errors
from rerank.serving.file_roots import MAX_FILE_BYTES, CopyFile, FileRoots
from rerank.serving.middleware import AccessMiddleware, UnexpectedErrorMiddleware
from rerank.serving.ranking_service import RankingService
from rerank.serving.search_routes import CollectionSearch, SearchRequest, SearchResponse, search_and_rerank
from rerank.serving.settings import ServerKeys, ServerSettings
from rerank.store import RunFolder
from rerank.tasks.dialects.rerank import CohereRequest, CohereResponse
from rerank.types import Run

T = TypeVar("T")

#: Limits of comparisons and evaluations: runs times measures, and values per query.
_MAX_SCORED, _MAX_VALUES = 200, 20_000
#: Limit of resampling tests, some 100 seconds: pairs of runs times measures, queries and resamples.
_MAX_RESAMPLED = 10**9
#: Maximum number of tools that read files at the same time. One that has begun ends even if its caller has left.
_READING = 2
_CLIENT = "mcp"  #: Name of the client in the queue: the server does not distinguish MCP clients.
#: Tools that are not offered without an option of the command, and the option.
_OPTIONS = dict.fromkeys(("evaluate_runs", "compare_runs", "explain_ranking"), "--root FOLDER")
_OPTIONS["search"] = "--collection NAME"

#: Names of tests and corrections. Those with a baseline need the argument ``baseline``.
Test = Literal[
    "t", "wilcoxon", "sign", "permutation", "bootstrap", "tukey-randomised", "tukey-anova", "dunnett", "max-t"
]
Correction = Literal["auto", "none", "bonferroni", "holm", "hochberg", "bh", "by"]

_MODEL_KEYS = ("name", "kind", "method", "licence", "hub_id", "parameters", "megabytes", "note")
_Name = Annotated[str, Field(max_length=4096)]
_Runs = Annotated[list[_Name], Field(max_length=50, fail_fast=True, description="Run files in TREC format or gzipped.")]
_Permutations = Annotated[int | None, Field(ge=1, le=100_000, description="Number of resamples of a resampling test.")]
_Baseline = Annotated[_Name | None, Field(description="One of run_files, with which the others are compared.")]
_Qrels = Annotated[_Name, Field(description="File of relevance judgments, in the format of TREC, BEIR or JSON.")]
_Measures = Annotated[
    list[Annotated[str, Field(max_length=200)]] | None,
    Field(min_length=1, max_length=20, description="Measures such as nDCG@10, the default, RR@10 or AP(rel=2)."),
]


def _read_runs(copy: CopyFile, names: Sequence[str], measures: Sequence[str]) -> list[Run]:
    scored = len(names) * len(measures)
    found = f"{len(names)} runs and {len(measures)} measures are {scored} evaluations"
    ensure(scored <= _MAX_SCORED, found, expected=f"at most {_MAX_SCORED}")
    ensure(len({*names}) == len(names), "run_files names a file twice", expected="each file once")
    return [read_run(copy(name), name=name) for name in names]


def _list_models(served: str, contains: str, *, downloaded: bool) -> dict[str, Any]:
    """List presets; that of a reranker is downloaded if the cache of the hub's client has a commit."""
    has_hub = find_spec("huggingface_hub") is not None
    cache = Path(import_module("huggingface_hub.constants").HF_HUB_CACHE) if has_hub else None
    megabytes = {name: preset.size / 1e6 for name, preset in MODELS.items()}
    rows = [{**row, "megabytes": megabytes.get(row["name"])} for row in list_models()]
    for row in list_rerankers():
        commits = cache.glob(f"models--{row['hub_id'].replace('/', '--')}/snapshots/*") if cache else iter(())
        rows.append({**row, "pulled": any(commits)})
    found = [
        {key: row.get(key) for key in _MODEL_KEYS} | {"downloaded": row["pulled"]}
        for row in rows
        if row["pulled"] >= downloaded and contains.lower() in f"{row['name']} {row['kind']} {row['hub_id']}".lower()
    ]
    return {"served": served, "models": found}


def _hints(title: str, *, calls_model: bool = False) -> ToolAnnotations:
    return ToolAnnotations(
        title=title, read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=calls_model
    )


class _Server(MCPServer[Any]):
    """A server whose refusals are one line, which names an option of the command if a tool needs one."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        tools: Mapping[str, Any] = {tool.name: tool for tool in await self.list_tools()}
        if name not in tools:
            remedy = f"; start rerank mcp with {_OPTIONS[name]} to allow it" if name in _OPTIONS else ""
            raise ToolError(f"This server has no tool {name[:100]!r}; expected one of {', '.join(tools)}{remedy}")
        known = tools[name].input_schema["properties"]
        if unknown := next((key for key in arguments if key not in known), None):
            raise ToolError(f"The tool {name} has no argument {unknown[:100]!r}; expected {', '.join(known)}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.__cause__.errors()]
            answer = errors.from_invalid_body(RequestValidationError(faults, body=arguments), None)
            raise ToolError(f"{name}: {answer.message}") from None  # the cause contains texts


def create_mcp_server(
    service: RankingService, *, search: CollectionSearch | None = None, roots: FileRoots | None = None
) -> MCPServer[Any]:
    """Create the MCP server. The server does not log the arguments of tools, since these contain texts."""
    settings = service.settings
    given = {"--collection NAME": search, "--root FOLDER": roots}
    missing = ", ".join(f"{name} needs {option}" for name, option in _OPTIONS.items() if given[option] is None)
    server = _Server(
        "listrank",
        version=version("listrank"),
        log_level="WARNING",
        instructions=f"Not offered, because rerank mcp was started without an option: {missing}" if missing else None,
    )
    amount = f"at most {settings.max_documents:,} documents and {settings.max_request_tokens:,} tokens"

    @server.tool(
        annotations=_hints("Rerank documents", calls_model=True),
        description="Order documents by their relevance to a query, best first; index is the position in the given "
        f"list. Limits: {amount}.",
    )
    async def rerank(
        query: Annotated[str, Field(description="Query for which the documents are ranked.")],
        documents: Annotated[
            list[str | dict[str, Any]],  # counted before its elements are checked, and then by the server's own limit
            Field(max_length=100_000, fail_fast=True, description="Texts, or objects with a field text."),
        ],
        top_n: Annotated[int | None, Field(ge=1, description="Number of results; all if omitted.")] = None,
        return_documents: Annotated[bool, Field(description="Whether results contain the texts.")] = True,
    ) -> CohereResponse:
        body = CohereRequest(query=query, documents=[*documents], top_n=top_n, return_documents=return_documents)

        async def answer() -> CohereResponse:
            return CohereResponse.from_answer(await service.answer(body.to_question(), _CLIENT))

        return await _report_errors(answer(), settings.timeout)

    @server.tool("list_models", annotations=_hints("List models"))
    async def models(
        contains: Annotated[str, Field(max_length=200, description="Part of the name, kind or hub id.")] = "",
        downloaded: Annotated[bool, Field(description="Whether to list only models on this machine.")] = False,
    ) -> dict[str, Any]:
        """List the models with presets: size, method, licence, and whether they are downloaded."""
        work = asyncio.to_thread(_list_models, settings.name, contains, downloaded=downloaded)
        return await _report_errors(work, settings.timeout)

    if search is not None:

        @server.tool(
            "search",
            annotations=_hints("Search and rerank", calls_model=True),
            description=f"Search the collection {search.corpus.name!r}, and rerank the documents found. Limits: 1,000 "
            f"results; {amount} to rerank.",
        )
        async def search_tool(
            query: Annotated[str, Field(description="Search query.")],
            top_n: Annotated[int, Field(ge=1, le=1000, description="Number of results.")] = 10,
            depth: Annotated[int, Field(ge=1, le=1000, description="Number of documents to rerank.")] = 100,
        ) -> SearchResponse:
            body = SearchRequest(query=query, top_n=top_n, depth=depth)
            return await _report_errors(search_and_rerank(service, search, body, _CLIENT), settings.timeout)

    if roots is not None:
        _add_file_tools(server, roots, settings.timeout)
    return server


def _add_file_tools(server: _Server, roots: FileRoots, timeout: float) -> None:
    readers = ThreadPoolExecutor(_READING, "mcp-files")  # their own, so that rankings have threads
    where = (
        f"Files are below {', '.join(map(str, roots.folders))}, named relative to it; each has at most "
        f"{MAX_FILE_BYTES >> 20} MB, also decompressed. {_READING} such requests run at the same time."
    )
    scored = f"Limits: 50 runs, 20 measures, {_MAX_SCORED} of runs times measures"

    async def on_copies(work: Callable[[CopyFile], dict[str, Any]]) -> dict[str, Any]:
        def with_copies() -> dict[str, Any]:
            with roots.session() as copy:
                return work(copy)

        return await _report_errors(asyncio.get_running_loop().run_in_executor(readers, with_copies), timeout)

    @server.tool(
        annotations=_hints("Evaluate runs"),
        description=f"Score runs with relevance judgments. {scored}, {_MAX_VALUES:,} values per query. {where}",
    )
    async def evaluate_runs(
        run_files: Annotated[_Runs, Field(min_length=1)],
        qrels_file: _Qrels,
        measures: _Measures = None,
        per_query: Annotated[bool, Field(description="Whether to return the scores of each query.")] = False,
    ) -> dict[str, Any]:
        def evaluate(copy: CopyFile) -> dict[str, Any]:
            """Return the content of `rerank eval --format json`, with notes."""
            names = measures or ["nDCG@10"]
            runs, judged = _read_runs(copy, run_files, names), read_qrels(copy(qrels_file))
            values = len(runs) * len(names) * len(judged)
            ensure(not per_query or values <= _MAX_VALUES, f"{values} values", expected=f"at most {_MAX_VALUES}")
            results = evaluation.evaluate_runs(judged, runs, names)
            report = evaluation.evaluation_report(qrels_file, zip(run_files, results, strict=True), per_query=per_query)
            coverage, _ = evaluation.cover_runs_by_judgments(judged, runs, results[0].measures, bounds=None)
            notes = notes_on_judgments(judged, runs, results[0].measures)
            return evaluation.add_coverage_to_evaluation_report(report, coverage) | {"notes": notes}

        return await on_copies(evaluate)

    @server.tool(
        annotations=_hints("Compare runs"),
        description=f"Test differences between runs for significance. {scored}, 100,000 permutations, "
        f"{_MAX_RESAMPLED:,} drawn values. {where}",
    )
    async def compare_runs(
        run_files: Annotated[_Runs, Field(min_length=2)],
        qrels_file: _Qrels,
        measures: _Measures = None,
        test: Annotated[Test, Field(description="Paired test; dunnett and max-t need a baseline.")] = "t",
        permutations: _Permutations = None,
        correction: Annotated[Correction, Field(description="Correction for multiple comparisons.")] = "auto",
        baseline: _Baseline = None,
    ) -> dict[str, Any]:
        def compare(copy: CopyFile) -> dict[str, Any]:
            """Return the content of `rerank compare --format json`."""
            if baseline is None and is_baseline_test(test):
                raise UsageError(f"The test {test} is given without a baseline", expected="the argument baseline")
            selector = build_test_selector(test, permutations=permutations)
            options = ComparisonOptions(test=selector, correction=correction)
            runs = _read_runs(copy, run_files, names := measures or ["nDCG@10"])
            judged = read_qrels(copy(qrels_file))
            if test in ("permutation", "bootstrap", "tukey-randomised", "max-t"):
                pairs = len(runs) - 1 if baseline else len(runs) * (len(runs) - 1) // 2
                work = pairs * len(names) * len(judged) * (permutations or 10_000)
                expected = f"at most {_MAX_RESAMPLED:,}: fewer runs, measures or permutations"
                ensure(work <= _MAX_RESAMPLED, f"{work:,} values would be drawn", expected=expected)
            found = score_compared_runs(judged, runs, names)
            if baseline is None:
                result = compare_evaluated_measures(found.scores, found.measures, options)
                return result.with_notes(found.notes).to_dict()
            against = compare_with_baseline(found.scores, found.measures, baseline, options, judged=found.judged)
            return replace(against, notes=(*against.notes, *found.notes)).to_dict()

        return await on_copies(compare)

    @server.tool(
        annotations=_hints("Explain a ranking"),
        description="Show how a run ranked one query, from its record: ranks before and after, scores, and the calls "
        f"of the model with their windows, replies and orders. {where}",
    )
    async def explain_ranking(
        run_folder: Annotated[_Name, Field(description="Folder that rerank run created.")],
        query_id: Annotated[str, Field(max_length=1000, description="Id of the query.")],
        max_documents: Annotated[int, Field(ge=0, le=1000, description="Number of documents, best first.")] = 20,
        max_calls: Annotated[int, Field(ge=0, le=200, description="Number of calls, in the order of judging.")] = 20,
    ) -> dict[str, Any]:
        def explain_copy(copy: CopyFile) -> dict[str, Any]:
            folder = RunFolder(copy(run_folder, *explain.FILES))
            if not (folder.path / "spec.json").is_file():
                found = f"{error_repr(run_folder, 200)} is not a run folder in the folders of this server"
                raise MissingResourceError(found, expected=f"one in {', '.join(map(str, roots.folders))}")
            return explain.explain_ranking(folder, query_id, documents=max_documents, calls=max_calls)

        return await on_copies(explain_copy)


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

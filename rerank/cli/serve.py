"""`serve`: answer rerank requests over HTTP. `mcp`: offer tools to applications of language models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from rerank.cli.app import command
from rerank.cli.options import OptionGroup
from rerank.cli.output import print_note
from rerank.cli.spec_options import takes_ranker_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from rerank.serving.ranking_service import RankingService
    from rerank.serving.running import Listener
    from rerank.serving.search_routes import CollectionSearch


class ServerOptions(OptionGroup):
    """Options for the server's address, its clients and the collection that it searches."""

    panel = "Server"

    host: Annotated[str, "Address to listen on."] = "127.0.0.1"
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 picks a free port.")] = 8080
    name: Annotated[str | None, "Name of the model in responses. (default: --model+--adapter)"] = None
    keys_file: Annotated[
        Path | None, "File with the keys of clients, one per line. (default: the variable RERANK_SERVER_KEYS)"
    ] = None
    collection: Annotated[str | None, "Collection to search."] = None
    first_stage: Annotated[str, "First stage of the search."] = "bm25"
    cache: Annotated[bool, "Take replies to repeated requests from the cache."] = False
    access_log: Annotated[Literal["none", "text", "json"], "Log one line per request: none, text or json."] = "none"
    trust_proxy: Annotated[
        bool, "Take client addresses from the header X-Forwarded-For of a proxy on this machine."
    ] = False
    allowed_host: Annotated[
        list[str] | None, "Host name that clients without keys may use, besides localhost; repeatable, * for all names."
    ] = None
    image_host: Annotated[
        list[str] | None, "Host from which pictures in requests may be fetched; repeatable. (default: none)"
    ] = None
    max_connections: Annotated[int, Option(min=1, help="Maximum number of open connections; others get 503.")] = 512

    def open_search(self) -> CollectionSearch | None:
        """Open the collection to search; return None if no collection is given."""
        from rerank.collections import open_collection
        from rerank.serving.search_routes import CollectionSearch

        return CollectionSearch.open(open_collection(self.collection), self.first_stage) if self.collection else None

    def listener(self) -> Listener:
        """Return the address to listen on, after checking that it is free."""
        from rerank.serving.running import Listener

        listener = Listener(
            host=self.host,
            port=self.port,
            max_connections=self.max_connections,
            access_log=self.access_log,
            trusts_proxy=self.trust_proxy,
        )
        listener.open_socket().close()
        return listener

    def run(self, app: Starlette, listener: Listener, *, has_keys: bool, path: str = "") -> None:
        """Serve an application until a signal stops the server; print its URL once it accepts requests."""
        from rerank.serving.running import run_server

        def announce(address: str) -> None:
            if self.host not in ("127.0.0.1", "localhost", "::1") and not has_keys:
                print_note(
                    f"Everybody who reaches {self.host} may use this server; set RERANK_SERVER_KEYS to require keys"
                )
            typer.echo(f"{address}{path}")

        run_server(app, listener, announce=announce)


class LimitOptions(OptionGroup):
    """Options for the limits of requests and of the server."""

    panel = "Limits"

    max_documents: Annotated[int, Option(min=1, help="Maximum documents per request.")] = 1000
    max_body_mb: Annotated[float, Option(min=0.001, max=1e6, help="Maximum size of a request body, in MB.")] = 10.0
    max_request_tokens: Annotated[int, Option(min=1, help="Maximum tokens per request, in query and documents.")] = (
        1_000_000
    )
    max_windows: Annotated[int, Option(min=1, help="Maximum windows that the method may judge per request.")] = 20_000
    max_waiting: Annotated[int, Option(min=0, help="Maximum number of waiting requests; others get 429.")] = 256
    max_active: Annotated[int, Option(min=1, help="Maximum number of simultaneous rankings.")] = 64
    deadline_ms: Annotated[
        float | None, Option(min=0.001, help="Milliseconds per ranking, if the request sets none.")
    ] = None
    answer_timeout: Annotated[
        float, Option(min=0.001, help="Seconds after which an unfinished request ends with 504.")
    ] = 600.0
    max_total_tokens: Annotated[int | None, Option(min=1, help="Stop calling the model after this many tokens.")] = None


def served_name(settings: Mapping[str, Any]) -> str:
    """Return the default name of a ranker in responses, which consists of its model and its adapter."""
    return "+".join(filter(None, (settings.get("model"), settings.get("adapter")))) or "listrank"


def open_served_ranker(settings: Mapping[str, Any], server: ServerOptions, limits: LimitOptions) -> RankingService:
    """Open the ranking service for the ranker that the command line specifies."""
    from rerank.serving.ranking_service import open_ranking_service
    from rerank.serving.settings import ServerSettings

    server_settings = ServerSettings(
        name=server.name or served_name(settings),
        max_body_bytes=round(limits.max_body_mb * 2**20),
        max_documents=limits.max_documents,
        max_request_tokens=limits.max_request_tokens,
        max_windows=limits.max_windows,
        max_waiting=limits.max_waiting,
        max_active=limits.max_active,
        deadline=None if limits.deadline_ms is None else limits.deadline_ms / 1000,
        # the listening address and this machine's own name always refer to this machine, so they are safe
        allowed_hosts=(*(server.allowed_host or ()), server.host, gethostname()),
        image_hosts=tuple(server.image_host or ()),
        timeout=limits.answer_timeout,
    )
    return open_ranking_service(
        settings, server_settings, uses_cache=server.cache, max_total_tokens=limits.max_total_tokens
    )


@command("serve", "rerank serve --method sliding --model openai:llama3.2 --base-url http://localhost:11434/v1")
@takes_ranker_settings
def serve(
    *,
    settings: dict[str, Any],
    server: ServerOptions,
    limits: LimitOptions,
    playground: Annotated[
        bool,
        Option(
            "--playground/--no-playground",
            help="Serve a page at / on which all methods of the model can be tried.",
            rich_help_panel=ServerOptions.panel,
        ),
    ] = True,
) -> None:
    """Answer rerank requests over HTTP in the formats of Cohere, Jina, Voyage, vLLM, TEI and SGLang.

    One line with the address is printed once requests are accepted. On SIGTERM, accepted requests are finished first.
    """
    from rerank.serving import check_serving_extra

    check_serving_extra("serve")
    from rerank.serving.app import create_server_app
    from rerank.serving.settings import ServerKeys

    keys = ServerKeys.load(server.keys_file)
    listener, search = server.listener(), server.open_search()  # before the model, which takes longer
    service = open_served_ranker(settings, server, limits)
    app = create_server_app(service, keys, search=search, has_playground=playground)
    service.reranker.warm_up()  # so that the command fails if the model cannot be reached
    server.run(app, listener, has_keys=bool(keys.digests))


@command("mcp", "rerank mcp --model smollm2-135m --collection pydoc --root runs")
@takes_ranker_settings
def serve_tools(
    *,
    settings: dict[str, Any],
    http: Annotated[bool, "Serve streamable HTTP at /mcp instead of standard input and output."] = False,
    root: Annotated[
        list[Path] | None,
        Option(
            "--root",
            "--runs-folder",
            help="Folder below which clients may name run files, qrels and run folders; repeatable. (default: none)",
        ),
    ] = None,
    server: ServerOptions,
    limits: LimitOptions,
) -> None:
    """Offer tools that rerank, search, evaluate, compare and explain through the Model Context Protocol (MCP).

    The tool search needs --collection. evaluate_runs, compare_runs and explain_ranking need --root. With --http, the
    address is printed.
    """
    from rerank.serving import check_serving_extra

    check_serving_extra("mcp")
    from rerank.serving.file_roots import FileRoots
    from rerank.serving.mcp_server import create_mcp_http_app, create_mcp_server
    from rerank.serving.settings import ServerKeys

    roots = FileRoots(root) if root else None
    keys = ServerKeys.load(server.keys_file)
    listener = server.listener() if http else None
    search = server.open_search()  # before the model, which takes longer
    service = open_served_ranker(settings, server, limits)
    tools = create_mcp_server(service, search=search, roots=roots)
    with service.reranker as reranker:
        reranker.warm_up()
        if listener is None:
            tools.run("stdio")
            return
        app = create_mcp_http_app(tools, keys, service.settings)
        server.run(app, listener, path="/mcp", has_keys=bool(keys.digests))

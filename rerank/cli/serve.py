"""`serve`: answer rerank requests over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import print_note
from rerank.cli.spec_options import with_ranker_command_options

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from rerank.serving.ranking_service import RankingService
    from rerank.serving.running import Listener
    from rerank.serving.search_routes import CollectionSearch
    from rerank.serving.settings import ServerSettings

#: Headings of the options in the help text.
_SERVER, _LIMITS = "Server", "Limits"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options for the server's address, its clients and the collection that it searches."""

    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=_SERVER)] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free port.", rich_help_panel=_SERVER)
    ] = 8080
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model in responses. (default: --model+--adapter)", rich_help_panel=_SERVER),
    ] = None
    keys_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the keys of clients, one per line. (default: the variable RERANK_SERVER_KEYS)",
            rich_help_panel=_SERVER,
        ),
    ] = None
    collection: Annotated[str | None, typer.Option(help="Collection to search.", rich_help_panel=_SERVER)] = None
    first_stage: Annotated[str, typer.Option(help="First stage of the search.", rich_help_panel=_SERVER)] = "bm25"
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Take replies to repeated requests from the cache.", rich_help_panel=_SERVER),
    ] = False
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log one line per request.", rich_help_panel=_SERVER)
    ] = False
    trust_proxy: Annotated[
        bool,
        typer.Option(
            "--trust-proxy",
            help="Take client addresses from the header X-Forwarded-For of a proxy on this machine.",
            rich_help_panel=_SERVER,
        ),
    ] = False

    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name that clients without keys may use, besides localhost; repeatable, * for all names.",
            rich_help_panel=_SERVER,
        ),
    ] = None
    max_connections: Annotated[
        int, typer.Option(min=1, help="Maximum number of open connections; others get 503.", rich_help_panel=_SERVER)
    ] = 512

    def open_search(self) -> CollectionSearch | None:
        """Open the collection to search; return None if no collection is given."""
        from rerank.serving.opening import ServedCollection

        return (
            ServedCollection(selector=self.collection, first_stage=self.first_stage).open() if self.collection else None
        )

    def settings(self, limits: LimitOptions, name: str) -> ServerSettings:
        """Return the settings of a server whose name is the value of ``--name`` or, if this is omitted, ``name``."""
        # The listening address and this machine's own name always refer to this machine, so they are safe.
        names = (*(self.allowed_host or ()), self.host, gethostname())
        return replace(limits.settings(self.name or name), allowed_hosts=names)

    def listener(self) -> Listener:
        """Return the address to listen on, after checking that it is free."""
        from rerank.serving.running import Listener

        listener = Listener(
            host=self.host,
            port=self.port,
            max_connections=self.max_connections,
            logs_requests=self.access_log,
            trusts_proxy=self.trust_proxy,
        )
        listener.open_socket().close()
        return listener

    def run(self, app: Starlette, listener: Listener, *, has_keys: bool, path: str = "") -> None:
        """Serve an application until a signal stops the server. Print the URL once requests are accepted.

        Args:
            app: The application.
            listener: The address, as `listener` returns it before models are loaded.
            has_keys: Whether clients need keys. If not, a note is printed if other machines may reach the server.
            path: Path of the application, which is appended to the printed URL.
        """
        from rerank.serving.running import run_server

        def announce(address: str) -> None:
            if self.host not in ("127.0.0.1", "localhost", "::1") and not has_keys:
                print_note(
                    f"Everybody who reaches {self.host} may use this server; set RERANK_SERVER_KEYS to require keys"
                )
            typer.echo(f"{address}{path}")

        run_server(app, listener, announce=announce)


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Options for the limits of requests and of the server."""

    max_documents: Annotated[
        int, typer.Option(min=1, help="Maximum documents per request.", rich_help_panel=_LIMITS)
    ] = 1000
    max_body_mb: Annotated[
        float, typer.Option(min=0.001, help="Maximum size of a request body, in MB.", rich_help_panel=_LIMITS)
    ] = 10.0
    max_request_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens per request, in query and documents.", rich_help_panel=_LIMITS)
    ] = 1_000_000
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Maximum number of waiting requests; others get 429.", rich_help_panel=_LIMITS)
    ] = 256
    max_active: Annotated[
        int, typer.Option(min=1, help="Maximum number of simultaneous rankings.", rich_help_panel=_LIMITS)
    ] = 64
    deadline_ms: Annotated[
        float | None,
        typer.Option(min=0.001, help="Milliseconds per ranking, if the request sets none.", rich_help_panel=_LIMITS),
    ] = None
    answer_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, help="Seconds after which an unfinished request ends with 504.", rich_help_panel=_LIMITS
        ),
    ] = 600.0
    max_total_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop calling the model after this many tokens.", rich_help_panel=_LIMITS)
    ] = None

    def settings(self, name: str) -> ServerSettings:
        """Return the settings of a server with these limits and the given name."""
        from rerank.serving.settings import ServerSettings

        return ServerSettings(
            name=name,
            max_body_bytes=round(self.max_body_mb * 2**20),
            max_documents=self.max_documents,
            max_request_tokens=self.max_request_tokens,
            max_waiting=self.max_waiting,
            max_active=self.max_active,
            deadline=None if self.deadline_ms is None else self.deadline_ms / 1000,
            timeout=self.answer_timeout,
        )


def served_name(settings: Mapping[str, Any]) -> str:
    """Return the default name of a ranker in responses, which consists of its model and its adapter."""
    return "+".join(filter(None, (settings.get("model"), settings.get("adapter")))) or "listrank"


def open_served_ranker(settings: Mapping[str, Any], server: ServerOptions, limits: LimitOptions) -> RankingService:
    """Open the ranking service for the ranker that the command line specifies."""
    from rerank.serving.opening import open_ranking_service

    named = server.settings(limits, served_name(settings))
    return open_ranking_service(settings, named, uses_cache=server.cache, max_total_tokens=limits.max_total_tokens)


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``serve``."""
    example = "Example: rerank serve --method sliding --model openai:llama3.2 --base-url http://localhost:11434/v1"
    app.command("serve", epilog=example)(serve_command)


@with_ranker_command_options
@expand_option_groups
def serve_command(
    *,
    settings: dict[str, Any],
    server: ServerOptions,
    limits: LimitOptions,
    playground: Annotated[
        bool,
        typer.Option(
            "--playground/--no-playground",
            help="Serve a page at / on which all methods of the model can be tried.",
            rich_help_panel=_SERVER,
        ),
    ] = True,
) -> None:
    """Answer rerank requests over HTTP in the formats of Cohere, Jina, Voyage, vLLM, TEI and SGLang.

    One line with the address is printed once requests are accepted. On SIGTERM, accepted requests are finished first.
    """
    from rerank.serving import check_serving_extra

    check_serving_extra("serve")
    from rerank.serving.app import create_server_app
    from rerank.serving.server_keys import ServerKeys

    keys = ServerKeys.load(server.keys_file)
    listener, search = server.listener(), server.open_search()  # before the model, which takes longer
    service = open_served_ranker(settings, server, limits)
    app = create_server_app(service, keys, search=search, has_playground=playground)
    service.reranker.warm_up()  # so that the command fails if the model cannot be reached
    server.run(app, listener, has_keys=bool(keys.digests))

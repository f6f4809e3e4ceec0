"""`mcp`: offer tools to language model applications through the Model Context Protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.serve import LimitOptions, ServerOptions, open_served_ranker
from rerank.cli.spec_options import with_ranker_command_options

if TYPE_CHECKING:
    from rerank.serving.run_comparison import RunFolders


@dataclass(frozen=True, kw_only=True)
class McpOptions:
    """Options for the connection of clients, and for the runs that clients may compare."""

    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP at /mcp instead of standard input and output.")
    ] = False
    runs_folder: Annotated[
        list[Path] | None, typer.Option(help="Folder of runs and qrels that clients may compare; repeatable.")
    ] = None

    def run_folders(self) -> RunFolders | None:
        """Return the folders whose runs may be compared; None if no folder is given."""
        from rerank.serving.run_comparison import RunFolders

        return RunFolders(self.runs_folder) if self.runs_folder else None


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``mcp``."""
    example = "Example: rerank mcp --model smollm2-135m --collection pydoc --runs-folder runs"
    app.command("mcp", epilog=example)(mcp_command)


@with_ranker_command_options
@expand_option_groups
def mcp_command(*, settings: dict[str, Any], mcp: McpOptions, server: ServerOptions, limits: LimitOptions) -> None:
    """Offer the tools rerank, search and compare_runs through the Model Context Protocol (MCP).

    The tool search needs --collection, and compare_runs needs --runs-folder. With --http, the address is printed.
    """
    from rerank.serving import check_serving_extra

    check_serving_extra("mcp")
    from rerank.serving.mcp_server import create_mcp_http_app, create_mcp_server
    from rerank.serving.server_keys import ServerKeys

    folders = mcp.run_folders()
    keys = ServerKeys.load(server.keys_file)
    listener = server.listener() if mcp.http else None
    search = server.open_search()  # before the model, which takes longer
    service = open_served_ranker(settings, server, limits)
    tools = create_mcp_server(service, search=search, runs=folders)
    with service.reranker as reranker:
        reranker.warm_up()
        if listener is None:
            tools.run("stdio")
            return
        app = create_mcp_http_app(tools, keys, service.settings)
        server.run(app, listener, path="/mcp", has_keys=bool(keys.digests))

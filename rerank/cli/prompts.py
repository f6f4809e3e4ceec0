"""`prompts`: list, show and render prompt templates."""

from __future__ import annotations

from typing import Annotated

import typer

from rerank.cli.output import FormatOption, emit_output, print_table


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group ``prompts``."""
    prompts = typer.Typer(help="List, show and render prompt templates.", invoke_without_command=True)
    prompts.callback()(list_prompts_command)
    prompts.command("list")(list_prompts_command)
    prompts.command("show", epilog="Example: rerank prompts show listwise")(show_prompt_command)
    prompts.command("render", epilog="Example: rerank prompts render listwise --query q --passage a --passage b")(
        render_prompt_command
    )
    app.add_typer(prompts, name="prompts")


def list_prompts_command(context: typer.Context, form: FormatOption = "text") -> None:
    """List the names and digests of the shipped prompts."""
    if context.invoked_subcommand:
        return
    from rerank.prompts import load_prompt, prompt_names

    rows = [{"name": name, "digest": load_prompt(name).digest[:12]} for name in prompt_names()]
    cells = [list(row.values()) for row in rows]
    emit_output({"prompts": rows}, form=form, text=lambda: print_table(["name", "digest"], cells), rows="prompts")


def show_prompt_command(
    name: Annotated[str, typer.Argument(help="Name of a shipped prompt, or path of a YAML file.")],
) -> None:
    """Print the YAML of a prompt."""
    from rerank.prompts import prompt_text

    typer.echo(prompt_text(name), nl=False)


def render_prompt_command(
    name: Annotated[str, typer.Argument(help="Name of a shipped prompt, or path of a YAML file.")],
    query: Annotated[str, typer.Option(help="Text of the query.")],
    passages: Annotated[list[str], typer.Option("--passage", help="Text of a passage; repeatable.")],
    form: FormatOption = "text",
) -> None:
    """Print the chat messages that a prompt produces for a query and passages."""
    from rerank.prompts import load_prompt

    messages = [{"role": m.role, "content": m.content} for m in load_prompt(name).render(query, passages)]

    def show_chat() -> None:
        for message in messages:
            typer.echo(f"--- {message['role']}\n{message['content']}")

    emit_output({"messages": messages}, form=form, text=show_chat, rows="messages")

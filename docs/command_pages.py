"""Write one page per command below docs/commands, with the options that many commands share on a page of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import typer
import yaml

from rerank.cli.app import app
from rerank.collections import list_collection_providers
from rerank.models import MODELS
from rerank.prompts import prompt_names, prompt_text

_INDEX = """# Commands

<!-- Written by docs/generate.py; change the help texts instead. -->

Every command prints the same with `--help`. Results go to standard output, everything else to standard error; tables
are tab-separated when piped. `--format json` prints one object, `--format jsonl` one object per line; their keys are in
[File formats](../formats.md#output-of-the-commands). Flags may be written with underscores, as in `--window_size`.
[Common options](options.md) are those that many commands share.
"""
_OPTIONS = """# Common options

<!-- Written by docs/generate.py; change the help texts instead. -->

The page of a command lists by name which of these options it takes.
"""
#: An option is on the page of common options if at least this many commands take it with the same meaning.
_COMMON = 3
#: Examples that tests cannot run, and why.
_NOT_RUN = {
    "rerank doctor": "looks at this machine",
    "rerank serve": "runs until it is stopped, and needs a server with a model",
    "rerank mcp": "runs until it is stopped",
    "rerank bench": "needs a suite's file",
    "rerank leaderboard build": "needs runs over one collection",
    "rerank leaderboard open": "opens a browser",
    "rerank leaderboard check": "needs a submission's card",
    "rerank mteb tasks": "needs the extra mteb",
    "rerank mteb run": "needs the extra mteb, a model and data",
    "rerank mteb choose tasks": "needs a table of scores",
    "rerank mteb choose queries": "needs a table of scores",
    "rerank models pull": "downloads a model",
    "rerank models tokenize": "needs a model",
    "rerank train": "trains for minutes",
    "rerank inspect": "needs a trained adapter",
    "rerank merge": "needs a trained adapter",
    "rerank transfer": "trains for minutes",
}


def write_command_pages() -> dict[str, str]:
    """Return the pages of all commands by their path below docs/."""
    root: Any = typer.main.get_command(app)
    top = {name: root.commands[name] for name in root.list_commands(None)}
    common = _common_options(root)
    pages = {"commands/index.md": _INDEX + "\n" + "\n\n".join(_index(top)) + "\n"}
    rows = [(f'<a id="{anchor}"></a>{names}', meaning) for (names, meaning), anchor in common.items()]
    pages["commands/options.md"] = f"{_OPTIONS}\n{table(('option', 'meaning'), rows)}\n"
    extra = {"collections": _collections, "prompts": _prompts, "models": _models}
    for name, command in top.items():
        parts = [*_command(f"rerank {name}", command, common, "#"), *(extra[name]() if name in extra else ())]
        pages[f"commands/{name}.md"] = "\n\n".join(part.rstrip() for part in parts) + "\n"
    return pages


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _index(top: dict[str, Any]) -> Iterator[str]:
    """One table per group of commands, in the order of the help text."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, command in top.items():
        row = (f"[`rerank {name}`]({name}.md)", _joined(command.help or "").partition("\n")[0])
        groups.setdefault(command.rich_help_panel, []).append(row)
    for group, rows in groups.items():
        yield f"## {group}"
        yield table(("command", "what it does"), rows)


def _leaves(command: Any) -> Iterator[Any]:
    """Yield every command that does something."""
    yield command
    for word, inner in getattr(command, "commands", {}).items():
        if word != "list":  # the same as the group by itself
            yield from _leaves(inner)


def _own_options(command: Any) -> list[Any]:
    return [p for p in command.params if "--help" not in p.opts and not p.opts[0].endswith("-completion")]


def _common_options(root: Any) -> dict[tuple[str, str], str]:
    """Return names and meaning of the options that many commands share -> anchor on the page of options."""
    found: Counter[tuple[str, str]] = Counter()
    names: dict[tuple[str, str], str] = {}
    for command in _leaves(root):
        for option in _own_options(command):
            if option.param_type_name == "option":
                key = (_names(option), _meaning(option))
                found[key] += 1
                names[key] = _flag(option).strip("-")
    common, used = {}, Counter[str]()
    for key in [key for key, count in found.items() if count >= _COMMON]:
        used[names[key]] += 1
        common[key] = names[key] + (f"-{used[names[key]]}" if used[names[key]] > 1 else "")
    return common


def _flag(option: Any) -> str:
    """Return the first long name of an option."""
    return next((name for name in option.opts if name.startswith("--")), str(option.opts[0]))


def _command(name: str, command: Any, common: dict[tuple[str, str], str], level: str) -> Iterator[str]:
    """A section for a command, then those of the commands below it."""
    options = _own_options(command)
    takes = "".join(f" {p.metavar or p.name.upper()}" for p in options if p.param_type_name == "argument")
    yield f"{level} `{name}`"
    if level == "#":
        yield "<!-- Written by docs/generate.py; change the help texts instead. -->"
    yield _joined(command.help or "")
    example = (command.epilog or "").removeprefix("Example: ")
    if example:
        mark = f"*Not run: {_NOT_RUN[name]}.*\n\n" if name in _NOT_RUN else ""
        yield f"{mark}```bash\n{example}\n```"
    rows = {(_names(option), _meaning(option)): option for option in options}
    if own := [key for key in rows if key not in common]:
        yield table((f"`{name}{takes}`", "meaning"), own)
    if shared := [f"[`{_flag(rows[key])}`](options.md#{common[key]})" for key in rows if key in common]:
        yield f"Common options: {', '.join(shared)}."
    for word, inner in getattr(command, "commands", {}).items():
        if word != "list":
            yield from _command(f"{name} {word}", inner, common, "##")


def _joined(text: str) -> str:
    """Paragraphs with their lines joined."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _names(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    value = "" if getattr(option, "is_flag", False) else " VALUE"
    return ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))


def _meaning(option: Any) -> str:
    text = _joined(option.help or "")
    if option.default in (None, False, "", [], ()) or "(default:" in text:
        return f"{text} Required." if option.required else text
    shown = ", ".join(map(str, option.default)) if isinstance(option.default, list) else str(option.default)
    return f"{text} (default: {shown})"


def _collections() -> Iterator[str]:
    yield "## Selectors"
    yield table(("written", "what it is"), [[f"`{p['usage']}`", p["about"]] for p in list_collection_providers()])


def _prompts() -> Iterator[str]:
    yield "## Shipped prompts"
    yield table(("name", "what it is"), [[f"`{n}`", _about_prompt(n)] for n in prompt_names()])


def _models() -> Iterator[str]:
    yield "## Models known by name"
    rows = [
        [f"`{card.name}`", card.hub_id, card.licence, f"`{card.prompt}`", card.recipe.get("method", "")]
        for card in MODELS.values()
    ]
    yield table(("name", "on the hub", "licence", "prompt", "`--method auto`"), rows)
    yield "[Rerankers by name](../models.md) lists the published rerankers."


def _about_prompt(prompt: str) -> str:
    return str(yaml.safe_load(prompt_text(prompt)).get("description", ""))

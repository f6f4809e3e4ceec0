"""Faster rendering of chats with templates that copy the contents of turns unchanged.

Rendering a template takes longer than all other work on a short prompt. If a template copies contents unchanged, the
text around them depends only on the roles. This text, called a frame, is rendered once for all chats with the same
roles; the contents of each chat are then inserted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from rerank.prompts.base import Message, Prompt

#: Placeholder for the content of a turn while a frame is rendered: the index of the turn, between characters that no
#: text contains.
_MARK = re.compile("\ufdd0([0-9]+)\ufdd1")
_MESSAGES, _CONTENT = "messages", "content"
#: Filters and functions whose result depends only on their arguments.
_FILTERS, _FUNCTIONS = frozenset({"length", "trim", "upper", "lower", "capitalize", "title"}), ("raise_exception",)
#: Attributes of ``loop`` that hold turns.
_NEIGHBOURS = ("previtem", "nextitem")
#: Statements that are rejected, because they process the text inside them or run template code from elsewhere.
_REJECTED = (nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock, nodes.Macro, nodes.Import, nodes.Include)
#: Maximum number of cached frames per template.
_FRAMES = 256


class ChatFrames:
    """A renderer of chats with a template for which `causal_model_template_copies_contents` is true.

    Args:
        apply: Function that renders a chat with the template; its second argument switches thinking on.
    """

    def __init__(self, apply: Callable[[Prompt, bool], str]) -> None:
        """Create an empty cache of frames. Each frame is rendered when it is first needed."""

        @lru_cache(maxsize=_FRAMES)
        def make_frame(roles: tuple[Any, ...], thinking: bool) -> list[str]:
            marked = tuple(Message(role, f"\ufdd0{index}\ufdd1") for index, role in enumerate(roles))
            return _MARK.split(apply(marked, thinking))

        self._make_frame = make_frame

    def apply(self, prompt: Prompt, thinking: bool) -> str:
        """Return the text of a chat."""
        parts = self._make_frame(tuple([turn.role for turn in prompt]), thinking)
        filled = list(parts)
        filled[1::2] = [prompt[int(index)].content for index in parts[1::2]]
        return "".join(filled)


def causal_model_template_copies_contents(template: Any) -> bool:
    """Return whether a chat template copies the contents of turns unchanged and otherwise depends only on their roles.

    The template may output contents unchanged or join them with other text by ``+`` or ``~``. It may read the
    attributes of a turn, but not use the turn in other ways. It may call no function except ``raise_exception``, since
    the results of functions, such as the current date, can change.

    Args:
        template: The source of the template. The result is false for any other value, such as a list of templates.
    """
    if not isinstance(template, str):
        return False
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateError:
        return False
    turns = {
        loop.target.name
        for loop in tree.find_all(nodes.For)
        if _is_causal_model_turn_list(loop.iter) and isinstance(loop.target, nodes.Name)
    }
    return all(_is_harmless_causal_template_node(path, turns) for path in _causal_model_template_paths((tree,)))


def _causal_model_template_paths(path: tuple[nodes.Node, ...]) -> Iterator[tuple[nodes.Node, ...]]:
    """Yield the path from the root to each node of a template's syntax tree."""
    yield path
    for child in path[-1].iter_child_nodes():
        yield from _causal_model_template_paths((*path, child))


def _is_harmless_causal_template_node(path: Sequence[nodes.Node], turns: set[str]) -> bool:
    """Return whether a node meets the conditions of `causal_model_template_copies_contents`.

    Args:
        path: The ancestors of the node, from the root down, and then the node itself.
        turns: Names of the loop variables whose values are turns.
    """
    node, parent = path[-1], path[max(0, len(path) - 2)]
    if isinstance(node, _REJECTED):
        return False
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Name) and node.node.name in _FUNCTIONS
    if isinstance(node, nodes.Filter):
        return node.name in _FILTERS
    if isinstance(node, nodes.Name) and node.ctx != "load":
        is_loop = isinstance(parent, nodes.For) and parent.target is node and _is_causal_model_turn_list(parent.iter)
        return is_loop or node.name not in {*turns, _MESSAGES}
    if _is_causal_model_turn_list(node):
        is_counted = isinstance(parent, nodes.Filter) and parent.name == "length"
        is_looped = isinstance(parent, nodes.For) and parent.iter is node
        return is_counted or is_looped or (isinstance(parent, nodes.Getitem) and parent.node is node)
    if _is_causal_model_turn(node, turns):
        return _causal_model_template_attribute(parent) is not None and _causal_model_template_owner(parent) is node
    if _causal_model_template_attribute(node) == _CONTENT and _is_causal_model_turn(
        _causal_model_template_owner(node), turns
    ):
        ancestors = [type(ancestor) for ancestor in path[:-1]]
        while ancestors[-1] in (nodes.Add, nodes.Concat):
            ancestors.pop()
        return ancestors[-1] is nodes.Output
    return _causal_model_template_attribute(node) not in _NEIGHBOURS


def _is_causal_model_turn_list(node: nodes.Node | None) -> bool:
    """Return whether an expression in a template is the chat's list of turns, or a slice of it."""
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice) and _is_causal_model_turn_list(node.node)
    return isinstance(node, nodes.Name) and node.name == _MESSAGES and node.ctx == "load"


def _is_causal_model_turn(node: nodes.Node | None, turns: set[str]) -> bool:
    if isinstance(node, nodes.Getitem):
        return not isinstance(node.arg, nodes.Slice) and _is_causal_model_turn_list(node.node)
    return isinstance(node, nodes.Name) and node.name in turns


def _causal_model_template_attribute(node: nodes.Node) -> str | None:
    """Return the name of the attribute or item that an expression reads; None if it reads neither."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        return node.arg.value
    return None


def _causal_model_template_owner(node: nodes.Node) -> nodes.Node | None:
    return node.node if isinstance(node, nodes.Getattr | nodes.Getitem) else None

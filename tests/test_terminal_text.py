"""What is removed from texts before they reach a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from rerank.terminal_text import (
    strip_control_characters,
    strip_output_streams,
    stripped_output_streams,
    unstripped_output_stream,
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain é 文 👩\u200d🚀\t\n", "plain é 文 👩\u200d🚀\t\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        ("a\x1bcb\x9b2J", "acb2J"),
        ("a\rb\r\nc", "a\nb\nc"),
        ("\u202eabc\u2066", "abc"),
        ("\x1b]0;never ends", "]0;never ends"),
    ],
)
def test_control_sequences_are_removed(text: str, clean: str) -> None:
    assert strip_control_characters(text) == clean


def test_streams_are_stripped_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with stripped_output_streams():
        strip_output_streams()  # which changes nothing
        sys.stdout.write("a\x1b[2Jb\n")
        sys.stderr.writelines(["\rbar\x07", "\n"])  # a bar of a library returns to the beginning of its line
        assert unstripped_output_stream(sys.stdout) is out
        Console(file=sys.stdout, force_terminal=True, color_system="standard").print("[red]styled[/red]")
    assert sys.stdout is unstripped_output_stream(sys.stdout) is out
    assert out.getvalue() == "ab\n\x1b[31mstyled\x1b[0m\n"
    assert err.getvalue() == "\rbar\n"

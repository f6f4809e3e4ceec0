"""Frames of chats against the template itself."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from hypothesis import given
from hypothesis import strategies as st

from rerank.lm.chat_frames import causal_model_template_copies_contents
from rerank.lm.chat_templates import ChatRenderer
from rerank.prompts.base import Message, Prompt
from tests.backends.conftest import CHATML, make_tokenizer

LOOP = "{% for m in messages %}"
END = "{% endfor %}"
FIRST = "{% if messages[0]['role'] != 'system' %}default {{ messages | length }}{% endif %}"
COPYING = [
    CHATML,
    FIRST + LOOP + "{% if loop.last %}last{% endif %}{{ m.role | upper ~ ': ' ~ m.content + '\n' }}" + END,
    "{{ messages[0].content }}|{{ messages[-1]['content'] }}{% if enable_thinking %}<think>{% endif %}",
    "{% for m in messages[1:] %}{{ m['role'] + m['content'] + m['content'] }}{% endfor %}",
    LOOP + "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{{ m.content }}" + END,
]
READING = [
    LOOP + "{{ m.content | trim }}" + END,
    LOOP + "{% if m.content %}{{ m.content }}{% endif %}" + END,
    LOOP + "{{ m.content if m.role == 'user' else '' }}" + END,
    LOOP + "{% set text = m.content %}{{ text }}" + END,
    LOOP + "{{ m.content.strip() }}" + END,
    LOOP + "{{ m.content[0] }}" + END,
    LOOP + "{{ m }}" + END,
    LOOP + "{{ m[key] }}" + END,
    LOOP + "{{ m.content }}{{ loop.previtem.content }}" + END,
    LOOP + "{% set m = 1 %}{{ m.content }}" + END,
    "{% for m in messages if m.content %}{{ m.content }}{% endfor %}",
    "{% set turns = messages %}{{ turns[0].content | length }}",
    "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "{% set text %}{{ messages[0].content }}{% endset %}{{ text | length }}",
    "{{ strftime_now('%d') }}{{ messages[0].content }}",
    "{{ messages | tojson }}",
    "{{ messages[0].content",
]
CONTENTS = st.text(alphabet=" \n{}%<|>'\"a1é\ufdd0\ufdd1", max_size=12)


@pytest.mark.parametrize("template", COPYING)
@given(contents=st.lists(CONTENTS, min_size=2, max_size=5), thinking=st.booleans())
def test_a_frame_gives_the_text_of_the_template(template: str, contents: list[str], thinking: bool) -> None:
    assert causal_model_template_copies_contents(template)
    renderer = ChatRenderer(make_tokenizer(template))
    roles = ["system", *["user", "assistant"] * 3]
    prompt: Prompt = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))  # type: ignore[arg-type]
    assert renderer._apply(prompt, thinking=thinking) == renderer._apply_template(prompt, thinking)


@pytest.mark.parametrize("template", READING)
def test_a_template_that_reads_contents_is_rendered_every_time(template: str) -> None:
    assert not causal_model_template_copies_contents(template)


def test_a_choice_of_templates_is_rendered_every_time() -> None:
    assert not causal_model_template_copies_contents({"default": CHATML})
    assert not causal_model_template_copies_contents(None)

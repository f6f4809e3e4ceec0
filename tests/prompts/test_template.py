"""Templates: reading them from YAML, rendering them, and every way to get one wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.errors import DataError, MissingResourceError, RerankError, UnknownNameError
from rerank.prompts import PromptTemplate, load_prompt, parse_template, prompt_names, prompt_text
from rerank.prompts.base import Message, Prompt, RenderedPrompt
from rerank.prompts.passages import collapse_whitespace, passage_text
from rerank.prompts.template import PromptExample, compile_section
from rerank.types import Document
from tests.raising import raises

GOLDEN = Path(__file__).parents[1] / "golden"

SINGLE = r"""
method: "singleturn_listwise"
system_message: "You sort texts."
prefix: "Sort {num} texts for: {query}.\n"
body: "[{rank}] {candidate}\n"
suffix: |-
  The request was {query}.
  Sort the {num} texts.
output_validation_regex: r"^\[\d+\]( > \[\d+\])*$"
output_extraction_regex: r"\[(\d+)\]"
"""
MULTI = """
method: multiturn_listwise
system_message: You sort texts.
prefix_user: "{num} texts for {query} will come."
prefix_assistant: Go on.
body_user: "[{rank}] {candidate}"
body_assistant: "Got [{rank}]."
suffix_user: Sort them for {query}.
output_patterns:
  - a
"""
JINJA = """
prefix: "Request: {{ query }}\\n{% for passage in passages %}[{{ loop.index }}] {{ passage }}\\n{% endfor %}"
suffix: "{% if num > 1 %}Sort the {{ num }} texts.{% else %}Say [1].{% endif %}"
"""


def shown(prompt: Prompt) -> str:
    return "".join(f"--- {message.role}\n{message.content}\n" for message in prompt)


@pytest.mark.parametrize("name", ["listwise", "listwise_multiturn"])
def test_shipped_prompts_are_as_recorded(name: str) -> None:
    """A change of words changes results; it must be meant. The files are written by hand from the wording."""
    prompt = load_prompt(name).render("how long do {fleas} live [1]?", ["Two {months} [12].", "", "Fleas bite."])
    assert shown(prompt) == (GOLDEN / f"prompt_{name}.txt").read_text(encoding="utf-8")


def test_every_shipped_prompt_loads_and_alternates() -> None:
    assert {"listwise", "listwise_multiturn"} <= set(prompt_names())
    digests = set()
    for name in prompt_names():
        template = load_prompt(name)
        digests.add(template.digest)
        roles = [
            message.role for message in template.render("q", ["a", "b"], scores=[2.0, 1.0]) if message.role != "system"
        ]
        if template.plain_text or template.verbatim:
            assert set(roles) == {"text" if template.plain_text else "verbatim"}
            continue
        turns = ["user", "assistant"] * len(roles)
        assert roles == turns[: len(roles)]
        assert roles[-1] == ("assistant" if template.reply_prefix else "user")
    assert len(digests) == len(prompt_names())


def test_plain_text_is_one_text() -> None:
    assert load_prompt("query_question").render("q", ["a [1] b"]) == (
        Message("text", "Passage: a (1) b\nPlease write a question based on this passage.\nQuestion:"),
    )
    text = load_prompt("query_question")
    assert replace(text, plain_text=False).digest != text.digest


@pytest.mark.parametrize(
    "more",
    ["method: listwise", "system_message: s", "prefix: p\nprefix_assistant: a", "reply_prefix: r", "shows: pictures"],
)
def test_plain_text_has_no_turns(more: str) -> None:
    text = f"method: pointwise\nplain_text: true\nbody: '[{{rank}}] {{candidate}} {{query}}'\n{more}"
    with raises(DataError, "plain text"):
        parse_template(text.replace("method: pointwise\n", "" if "method" in more else "method: pointwise\n"), "p")


def test_keys_of_rank_llm_single_turn() -> None:
    prompt = parse_template(SINGLE, "single").render("fleas", ["one", "two"])
    assert prompt == (
        Message("system", "You sort texts."),
        Message("user", "Sort 2 texts for: fleas.\n[1] one\n[2] two\nThe request was fleas.\nSort the 2 texts."),
    )


def test_keys_of_rank_llm_many_turns() -> None:
    prompt = parse_template(MULTI, "multi").render("fleas", ["one", "two"])
    assert [(message.role, message.content) for message in prompt] == [
        ("system", "You sort texts."),
        ("user", "2 texts for fleas will come."),
        ("assistant", "Go on."),
        ("user", "[1] one"),
        ("assistant", "Got [1]."),
        ("user", "[2] two"),
        ("assistant", "Got [2]."),
        ("user", "Sort them for fleas."),
    ]


def test_the_older_keys_for_many_turns() -> None:
    old = MULTI.replace("_user", "").replace("multiturn_listwise", "listwise")
    expected = parse_template(MULTI, "multi").render("q", ["a"])
    assert parse_template(old, "old").render("q", ["a"]) == expected


def test_an_acknowledged_prefix_before_one_turn_of_passages() -> None:
    text = "prefix_user: 'for {query}'\nprefix_assistant: ok\nbody_user: '[{rank}] {candidate}'\nsuffix_user: sort"
    assert [m.content for m in parse_template(text, "x").render("q", ["a", "b"])] == [
        "for q",
        "ok",
        "[1] a\n[2] b\nsort",
    ]


def test_names_of_passages_and_scores() -> None:
    text = "body: 'PASSAGE{rank} = {candidate} ({score})'\nsuffix: '{query}: {psg_ids}'"
    template = parse_template(text, "x")
    (turn,) = template.render("q", ["a", "b"], scores=[1.0, 0.25])
    assert turn.content == "PASSAGE1 = a (1.000)\nPASSAGE2 = b (0.250)\nq: [PASSAGE1, PASSAGE2]"
    for scores in (None, [1.0]):
        with raises(DataError, "scores"):
            template.render("q", ["a", "b"], scores=scores)


def test_line_breaks_are_added_for_listwise_only() -> None:
    plain = PromptTemplate(name="x", prefix="{query}", body="[{rank}] {candidate}", suffix="end")
    assert plain.render("q", ["a"])[0].content == "q\n[1] a\nend"
    joined = replace(plain, method="singleturn_listwise")
    assert joined.render("q", ["a"])[0].content == "q[1] aend"


def test_jinja_is_recognized_and_rendered() -> None:
    template = parse_template(JINJA, "x")
    assert template.syntax == "jinja"
    assert template.render("q", ["a", "b"])[0].content == "Request: q\n[1] a\n[2] b\nSort the 2 texts."
    assert template.render("<q> & {{ 7 }}", ["{% x %}"])[0].content == "Request: <q> & {{ 7 }}\n[1] {% x %}\nSay [1]."


def test_jinja_that_is_random_is_rendered_every_time() -> None:
    text = "{template: jinja, prefix: '{{ query }} {{ range(10**5) | random }}', body: '[{{ rank }}] {{ candidate }}'}"
    template = parse_template(text, "x")
    assert len({template.render("q", ["a"])[0].content for _ in range(9)}) > 1


def test_equal_values_of_other_types_are_other_texts() -> None:
    section = compile_section("{{ value }}", "jinja")
    assert [section.fill({"value": value}) for value in (1, True, "1", 1.0, 1)] == ["1", "True", "1", "1.0", "1"]


def pieces(prompt: RenderedPrompt) -> list[str]:
    """The contents of the turns, divided at the boundaries of the prompt."""
    found = []
    for index, turn in enumerate(prompt):
        ends = [end for at, end in prompt.boundaries if at == index]
        found += [turn.content[start:end] for start, end in zip([0, *ends], [*ends, len(turn.content)], strict=True)]
    return found


@pytest.mark.parametrize("syntax", ["braces", "jinja"])
def test_boundaries_are_where_prompts_begin_to_differ(syntax: str) -> None:
    left, right = ("{{ ", " }}") if syntax == "jinja" else ("{", "}")
    texts = {"prefix": "What to {query} for {num} of q: {query}.", "body": "[{rank}] {candidate}", "suffix": "End."}
    sections = {key: text.replace("{", left).replace("}", right) for key, text in texts.items()}
    template = PromptTemplate(name="x", system="Sort.", reply_prefix="[", syntax=syntax, **sections)  # type: ignore[arg-type]
    prompt = template.render("q", ["a", "b"])
    expected = ["Sort.", "", "What to ", "q for 2 of q: q.\n", "[1] a\n", "[2] b\n", "End.", "["]
    assert pieces(prompt) == expected
    assert prompt == tuple(prompt)
    assert hash(prompt) == hash(tuple(prompt))


def test_boundaries_are_after_examples_and_at_turns() -> None:
    example = PromptExample(query="x", passages=("y",), order=(1,))
    template = PromptTemplate(
        name="x",
        prefix="Query: {query}",
        prefix_assistant="Yes.",
        body="[{rank}] {candidate}",
        body_assistant="Read.",
        suffix="End.",
        examples=(example,),
    )
    prompt = template.render("q", ["a", "b"])
    assert [(prompt[turn].content, position) for turn, position in prompt.boundaries] == [
        ("Query: q", 0),
        ("Query: q", 7),
        ("[1] a", 0),
        ("[2] b", 0),
        ("End.", 0),
    ]
    assert min(turn for turn, _ in prompt.boundaries) == 6


def test_doubled_braces_are_braces_unless_jinja_is_said() -> None:
    text = """{prefix: '{query} as {{"[1]": 5}}', body: '[{rank}] {candidate}'}"""
    assert parse_template(text, "x").render("q", ["a"])[0].content == 'q as {"[1]": 5}\n[1] a\n'
    text = "{template: jinja, prefix: '{query} {{ query }}', body: '[{{ rank }}] {{ candidate }}'}"
    assert parse_template(text, "x").render("q", ["a"])[0].content == "{query} q\n[1] a\n"


@settings(deadline=None)
@given(query=st.text(), passages=st.lists(st.text(), max_size=4), jinja=st.booleans())
def test_user_text_is_never_interpreted(query: str, passages: list[str], jinja: bool) -> None:
    left, right = ("{{ ", " }}") if jinja else ("{", "}")
    template = PromptTemplate(
        name="x",
        method="singleturn_listwise",
        prefix=f"{left}query{right}|",
        body=f"{left}rank{right}:{left}candidate{right}|",
        syntax="jinja" if jinja else "braces",
        escape_brackets=False,
    )
    expected = f"{query}|" + "".join(f"{rank}:{text}|" for rank, text in enumerate(passages, start=1))
    assert template.render(query, passages)[0].content == expected


@pytest.mark.parametrize(
    "text", ["{query.__class__}", "{0}", "{", "}}{{", "{{ 7*7 }}", "{% raw %}", "%s $query \\n {candidate}"]
)
def test_hostile_text_stays_text(text: str) -> None:
    for name in prompt_names():
        assert text in shown(load_prompt(name).render("q", [text], scores=[1.0]))
        if name not in ("query_likelihood", "query_question"):  # the model is to guess the query
            assert text in shown(load_prompt(name).render(text, ["p"], scores=[1.0]))


def test_brackets_can_be_left_alone() -> None:
    text = "{escape_brackets: false, prefix: '{query}', body: '[{rank}] {candidate}'}"
    assert parse_template(text, "x").render("a [1]", ["b [2]"])[0].content == "a [1]\n[1] b [2]\n"


def test_passage_text() -> None:
    assert passage_text(Document(id="1")) == ""
    assert passage_text(Document(id="1", title=" A ", text="b\t[3]")) == "Title: A Content: b [3]"
    assert collapse_whitespace("\u3000a\u2028b ") == "a b"


def test_the_digest_follows_content_and_not_the_name() -> None:
    one, two = parse_template(SINGLE, "one"), parse_template(SINGLE, "two")
    assert one.digest == two.digest
    assert len(one.digest) == 64
    assert parse_template(SINGLE + "escape_brackets: false", "one").digest != one.digest
    assert parse_template(SINGLE.replace("You sort", "Do sort"), "one").digest != one.digest


def test_prompts_come_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SINGLE, encoding="utf-8")
    assert load_prompt(path) == load_prompt(str(path))
    assert load_prompt(path).name == "mine"
    assert prompt_text(path) == SINGLE
    assert prompt_text("listwise").startswith("#")
    with raises(UnknownNameError, "listwize", "'listwise'"):
        load_prompt("listwize")
    with raises(UnknownNameError, "''"):
        load_prompt("")
    with raises(MissingResourceError, "none.yaml"):
        load_prompt(tmp_path / "none.yaml")
    path.write_bytes(b"\x00\xff")
    with pytest.raises(DataError):
        load_prompt(path)


BODY = "body: '[{rank}] {candidate}'\n"
WRONG: list[tuple[str, type[RerankError], tuple[str, ...]]] = [
    ("sufix: a\n" + BODY, UnknownNameError, ("'sufix'", "'suffix'", "'x'")),
    ("1: a\n" + BODY, UnknownNameError, ("'1'",)),
    ("prefix: '{qery}'\n" + BODY, UnknownNameError, ("'prefix'", "'qery'", "'query'")),
    ("prefix: '{query} {candidate}'\n" + BODY, UnknownNameError, ("'candidate'",)),
    ("prefix: '{query} {passages}'\n" + BODY, UnknownNameError, ("'passages'",)),
    ("prefix: '{{ query }} {{ pasages }}'\n", UnknownNameError, ("'pasages'", "'passages'")),
    ("prefix: '{query.x}'\n" + BODY, DataError, ("'prefix'", "'x'", "{query.x}")),
    ("prefix: '{query:>9}'\n" + BODY, DataError, ("query:>9",)),
    ("prefix: '{query!r}'\n" + BODY, DataError, ("query!r",)),
    ("prefix: '{query} {}'\n" + BODY, DataError, ("{}",)),
    ("prefix: '{query} }'\n" + BODY, DataError, ("brace",)),
    ("prefix: '{query'\n" + BODY, DataError, ("brace",)),
    ("prefix: '{{ query }} {% if %}'\n", DataError, ("Jinja", "line 1")),
    ("prefix: '{query}'\nbody: '{candidate}'\n", DataError, ("'x'", "'candidate'")),
    ("prefix: '{query}'\n", DataError, ("'x'", "'candidate'")),
    (BODY, DataError, ("'query'",)),
    ("prefix: '{query}'\nprefix_user: a\n" + BODY, DataError, ("'prefix'", "'prefix_user'")),
    ("prefix_assistant: ok\nsuffix: '{query}'\n" + BODY, DataError, ("'prefix_assistant'",)),
    ("prefix: '{query}'\nbody_assistant: ok\nsuffix: a\n" + BODY, DataError, ("'prefix_assistant'",)),
    ("prefix: '{query}'\nprefix_assistant: ok\nbody_assistant: ok\n" + BODY, DataError, ("'suffix'",)),
    ("prefix: '{query}'\nmethod: pairwise\n" + BODY, DataError, ("'pairwise'", "listwise")),
    ("prefix: '{query}'\ntemplate: mako\n" + BODY, DataError, ("'braces'", "'jinja'")),
    ("prefix: 3\n" + BODY, DataError, ("'prefix'", "'x'", "3")),
    ("prefix: '{query}'\nescape_brackets: 'no'\n" + BODY, DataError, ("'no'", "true or false")),
    ("- a\n", DataError, ("list", "mapping")),
    ("", DataError, ("NoneType",)),
    ("a: [", DataError, ("YAML",)),
    ("a: !!python/object/apply:os.system [ls]", DataError, ("YAML",)),
    ("a: 2020-99-99", DataError, ("YAML",)),
    ("[" * 5000, DataError, ("YAML",)),
]


@pytest.mark.parametrize(("text", "kind", "named"), WRONG)
def test_wrong_files(text: str, kind: type[RerankError], named: tuple[str, ...]) -> None:
    with raises(kind, *named):
        parse_template(text, "x")


@pytest.mark.parametrize(
    "code",
    [
        "{{ query.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ passages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ query + num }}",
        "{{ passages[99].x }}",
        "{% include '/etc/passwd' %}",
        "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{{ 'a' * 10 ** 18 }}",
        "{{ 'a' * 10 ** 30 }}",
        "{{ 7 | dictsort }}",
    ],
)
def test_jinja_is_sandboxed_and_its_failures_are_typed(code: str) -> None:
    template = PromptTemplate(name="x", prefix=f"{{{{ query }}}} {{{{ passages }}}} {code}", syntax="jinja")
    with raises(DataError, "Jinja"):
        template.render("q", ["a"])


@pytest.mark.parametrize("text", ["{{ " + "(" * 5000 + "query" + ")" * 5000 + " }}", "{% if query %}" * 3000])
def test_jinja_nested_too_deeply_is_typed(text: str) -> None:
    with raises(DataError, "Jinja"):
        PromptTemplate(name="x", prefix="{{ query }} {{ passages }}" + text, syntax="jinja")


def test_verbatim_text_is_joined_unchanged() -> None:
    text = "method: pointwise\nverbatim: true\nprefix: '<|a|>{query}|'\nbody: '{candidate}'\nsuffix: '<|b|>'"
    template = parse_template(text, "p")
    (turn,) = template.render("q<|b|>", ["one"])
    assert turn == Message("verbatim", "<|a|>q(|b|)|one<|b|>")  # marks of the template stay, those of texts do not
    assert replace(template, verbatim=False).digest != template.digest
    begun = parse_template(f"{text}\nreply_prefix: '['", "p").render("q", ["one"])
    assert [message.role for message in begun] == ["verbatim", "assistant"]


@pytest.mark.parametrize("more", ["system_message: s", "prefix_assistant: a", "plain_text: true"])
def test_verbatim_text_has_no_turns(more: str) -> None:
    with raises(DataError, "verbatim" if "plain" not in more else "p"):
        parse_template(f"method: pointwise\nverbatim: true\nprefix: p\nbody: '{{candidate}}'\n{more}", "p")


def test_the_instruction_of_the_file_is_a_default() -> None:
    template = parse_template("instruction: facts\nbody: '[{rank}] {candidate}'\nsuffix: '{instruction} {query}'", "p")
    assert template.render("q", ["one"])[0].content == "[1] one\nfacts q"
    assert template.with_instruction("dates").render("q", ["one"])[0].content == "[1] one\ndates q"


_LOOPS = "{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{{% if query|length > 9 %}}{_LOOPS}{{% endif %}}", "100,000 steps"),
        (f"{{% if 'long' in query %}}{_LOOPS}{{% endif %}}", "100,000 steps"),
        (
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(query|length) }}",
            "steps",
        ),
        ("{% for a in query recursive %}{{ loop(query) }}{% endfor %}", "recursion"),
        ("{% if query|length > 9 %}{{ 'a' * 9999999999 }}{% endif %}", "the result of * is larger"),
        ("{% if query|length > 9 %}{{ 9999999999 * ['a'] }}{% endif %}", "the result of * is larger"),
        ("{% if query|length > 9 %}{{ 9 ** 9999999 }}{% endif %}", "the result of ** is larger"),
        ("{{ cycler() }}", "at least one item"),
        ("{{ '\\ud800' }}", "half of a surrogate pair"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_jinja_that_fails_for_some_queries_only_ends_with_an_error(text: str, found: str) -> None:
    section = compile_section(text, "jinja")
    with raises(DataError, found):
        section.fill({"query": "a query that is long"})


def test_limits_of_jinja_leave_room_for_long_lists() -> None:
    text = "{% for text in passages %}{{ loop.index }}/{{ loop.length }} {{ text.upper() }}{{ 2 * 3 }}{% endfor %}"
    filled = compile_section(text, "jinja").fill({"passages": ["a"] * 5000})
    assert filled.startswith("1/5000 A62/5000 A6")

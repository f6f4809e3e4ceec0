"""Prompts that show pictures: where these stand, what is refused, and that other prompts stay what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rerank.errors import ContextOverflowError, DataError
from rerank.prompts import load_prompt, parse_template
from rerank.prompts.base import PICTURE, Message, Prompt
from rerank.prompts.budget import PromptBudget
from rerank.prompts.template import PromptTemplate
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import Request, Sampling
from rerank.types import Document, Query, Window
from tests.raising import raises

PICTURES = tuple(Document(id=f"d{at}", image=f"{at}.png") for at in range(3))


def window(*docs: Document, query: str = "a red fish") -> Window:
    return Window(Query(id="q", text=query), docs)


def fit(name: str, asked: Window, size: int = 1000) -> Prompt:
    return PromptBudget(WordTokens(size)).fit(load_prompt(name), asked, reply_tokens=8).prompt


def test_every_picture_stands_behind_its_identifier() -> None:
    (turn,) = fit("listwise_images", window(*PICTURES))
    assert turn.images == ("0.png", "1.png", "2.png")
    assert f"[1] {PICTURE}\n[2] {PICTURE}\n[3] {PICTURE}\n" in turn.content
    assert turn.content.count("a red fish") == 2


def test_one_picture_yes_or_no() -> None:
    (turn,) = fit("pointwise_images", window(PICTURES[1]))
    assert turn.images == ("1.png",)
    assert turn.content.startswith(f"{PICTURE}\n")
    assert "Yes or No" in turn.content


def test_pictures_of_a_prompt_of_many_turns_stand_in_their_turns() -> None:
    text = (
        "method: multiturn_listwise\nshows: pictures\nbody_user: '[{rank}] {candidate}'\n"
        "body_assistant: Received [{rank}].\nsuffix: 'Order by {query}'\n"
    )
    fitted = PromptBudget(WordTokens(500)).fit(parse_template(text, "mine"), window(*PICTURES[:2]), reply_tokens=0)
    assert [turn.images for turn in fitted.prompt] == [("0.png",), (), ("1.png",), (), ()]


def test_the_mark_of_a_picture_in_a_query_is_no_picture() -> None:
    (turn,) = fit("pointwise_images", window(PICTURES[0], query=f"a {PICTURE}0{PICTURE} fish"))
    assert turn.images == ("0.png",)
    assert "a 0 fish" in turn.content


def test_a_prompt_in_jinja_may_turn_pictures_round() -> None:
    text = (
        "method: singleturn_listwise\nshows: pictures\n"
        "prefix: '{% for p in passages | reverse %}{{ p }} {% endfor %}{{ query }}'\n"
    )
    fitted = PromptBudget(WordTokens(500)).fit(parse_template(text, "mine"), window(*PICTURES), reply_tokens=0)
    assert fitted.prompt[0].images == ("2.png", "1.png", "0.png")


def test_a_prompt_that_leaves_pictures_out() -> None:
    text = "method: singleturn_listwise\nshows: pictures\nprefix: '{{ passages[0] }} {{ query }}'\n"
    with raises(DataError, "1 of 3"):
        PromptBudget(WordTokens(500)).fit(parse_template(text, "mine"), window(*PICTURES), reply_tokens=0)


def test_texts_are_refused_where_pictures_are_shown_and_the_reverse() -> None:
    text = Document(id="t", text="words")
    with raises(DataError, "'t'", "--method fullrank"):
        fit("listwise_images", window(PICTURES[0], text))
    with raises(DataError, "'d0'", "pointwise-images"):
        fit("listwise", window(text, PICTURES[0]))
    both = Document(id="b", text="words", image="b.png")
    assert "words" in fit("listwise", window(both))[-1].content
    assert "words" not in fit("listwise_images", window(both))[-1].content


def test_too_many_pictures() -> None:
    with raises(ContextOverflowError, "3 pictures", "42"):
        fit("listwise_images", window(*PICTURES), size=50)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("shows: films\nbody: '[{rank}] {candidate} {query}'", ("'shows'", "'films'", "'pictures'")),
        (
            "shows: pictures\nbody: '[{rank}] {candidate} {query}'\n"
            "examples: [{query: a, passages: [b, c], order: [2, 1]}]",
            ("'examples'",),
        ),
    ],
)
def test_wrong_prompts(text: str, named: tuple[str, ...]) -> None:
    with raises(DataError, *named):
        parse_template(text, "mine")


def test_identity(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was committed before prompts could show pictures keeps its name; pictures count by their content."""
    assert load_prompt("listwise").digest == "32c388cf04d0b11377cdd8b6299aa084d969304af4109a8ea9167e5b981f639f"
    plain = PromptTemplate(name="a", prefix="{query}", body="[{rank}] {candidate}")
    assert plain.digest != replace(plain, pictures=True).digest
    folder = tmp_path_factory.mktemp("files")
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (folder / name).write_bytes(content)

    def digest(*names: str) -> str:
        turn = Message("user", PICTURE * len(names), images=tuple(str(folder / name) for name in names))
        return Request(prompt=(turn,), sampling=Sampling(max_tokens=1)).digest({})

    assert digest("a") == digest("b")
    assert len({digest("a"), digest("c"), digest("a", "c"), digest("c", "a"), digest()}) == 5

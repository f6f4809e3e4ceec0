"""The budget against counters that add up and one that does not."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rerank.errors import ContextOverflowError, DataError, UsageError
from rerank.prompts import budget, load_prompt
from rerank.prompts.base import Prompt
from rerank.prompts.budget import FittedPrompt, PromptBudget, find_cap
from rerank.prompts.passages import passage_text
from rerank.prompts.template import PromptTemplate
from rerank.types import Document, Query, Window
from tests.raising import raises

PLAIN = PromptTemplate(name="plain", prefix="Query: {query}\n", body="[{rank}] {candidate}\n", suffix="Rank {num}.")


@dataclass
class Characters:
    """Every character is a token; counts add up."""

    context_size: int
    seen: list[str] = field(default_factory=list)
    counts: int = 0

    def count(self, prompt: Prompt) -> int:
        self.counts += 1
        return sum(self._size(message.content) + 3 for message in prompt)

    def lengths(self, texts: list[str]) -> list[int]:
        self.seen += texts
        return [self._size(text) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        self.seen.append(text)
        ends = (end for end in range(len(text), 0, -1) if self._size(text[:end]) <= tokens)
        return text[: next(ends, 0)]

    def _size(self, text: str) -> int:
        return len(text)


def test_the_tokens_of_a_giant_text_are_not_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_COUNTED", 1000)
    monkeypatch.setattr(budget, "_COUNTED_PER_TOKEN", 1)
    docs = tuple(Document(id=str(n), text=text) for n, text in enumerate(("a" * 9000, "b" * 1500, "short")))
    tokens = Characters(300)
    fitted = PromptBudget(tokens, floor=10).fit(PLAIN, Window(Query(id="q", text="q"), docs), reply_tokens=10)
    assert max(map(len, tokens.seen[:3])) == 1300
    exact = PromptBudget(Characters(300), floor=10)
    monkeypatch.setattr(budget, "_COUNTED", 10_000)
    assert exact.fit(PLAIN, Window(Query(id="q", text="q"), docs), reply_tokens=10) == fitted
    monkeypatch.setattr(budget, "_COUNTED", 1000)
    with raises(ContextOverflowError, "about 9000 tokens", "Shorten the query"):
        PromptBudget(tokens).fit(PLAIN, Window(Query(id="q", text="a" * 9000), docs), reply_tokens=10)


class Words(Characters):
    """Every word is a token, white space none."""

    def _size(self, text: str) -> int:
        return len(text.split())


class Nasty(Characters):
    """Equal neighbours merge, and every seventh vowel costs three more: counts of parts say little of the whole."""

    def _size(self, text: str) -> int:
        runs = sum(1 for _ in itertools.groupby(text))
        return runs + 3 * (len(re.findall("[aeiou]", text)) // 7)


def window_of(texts: list[str], query: str = "fleas") -> Window:
    return Window(Query(id="q", text=query), tuple(Document(id=str(i), text=text) for i, text in enumerate(texts)))


def passages(fitted: FittedPrompt) -> list[str]:
    return re.findall(r"^\[\d+\] (.*)$", fitted.prompt[-1].content, re.MULTILINE)


TEXTS = st.lists(st.text(alphabet="abe u中é{}[1]%", max_size=120), max_size=12)
KINDS = st.sampled_from([Characters, Words, Nasty])


@settings(deadline=None)
@given(kind=KINDS, texts=TEXTS, context=st.integers(1, 1500), floor=st.integers(0, 20), reply=st.integers(0, 50))
def test_never_exceeds_and_never_touches_the_rest(
    kind: type[Characters], texts: list[str], context: int, floor: int, reply: int
) -> None:
    counter = kind(context)
    try:
        fitted = PromptBudget(counter, floor=floor).fit(PLAIN, window_of(texts), reply_tokens=reply)
    except ContextOverflowError:
        at_floor = [counter.cut(passage_text(doc), floor) for doc in window_of(texts).docs]
        assert counter.count(PLAIN.render("fleas", at_floor)) > context - reply
        return
    assert fitted.tokens == counter.count(fitted.prompt) <= context - reply
    content = fitted.prompt[-1].content
    assert content.startswith("Query: fleas\n")
    assert content.endswith(f"Rank {len(texts)}.")
    assert len(passages(fitted)) == len(texts)
    assert len(fitted.dropped) in (0, len(texts))
    if kind is Characters:  # its tokens are characters
        assert all(len(text) >= floor for text, cut in zip(passages(fitted), fitted.dropped, strict=False) if cut)


@settings(deadline=None)
@given(texts=TEXTS, context=st.integers(60, 1500))
def test_the_cap_is_the_largest_that_fits(texts: list[str], context: int) -> None:
    """With counts that add up, one more token a passage is too much."""
    texts = [re.sub(r"[\[\]\s]", "x", text) for text in texts]
    try:
        fitted = PromptBudget(Characters(context), floor=0).fit(PLAIN, window_of(texts), reply_tokens=5)
    except ContextOverflowError:
        assume(False)
    if not fitted.dropped:
        assert passages(fitted) == texts
        return
    cap = max(map(len, passages(fitted)))
    assert passages(fitted) == [text[:cap] for text in texts]  # evenly: one cap for all
    assert fitted.dropped == tuple(max(0, len(text) - cap) for text in texts)
    longer = PLAIN.render("fleas", [text[: cap + 1] for text in texts])
    assert Characters(1).count(longer) > context - 5


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 100), max_size=20), budget=st.integers(-50, 1000))
def test_water_level(lengths: list[int], budget: int) -> None:
    level = find_cap(lengths, budget)
    assert level <= max(lengths, default=0)
    assert sum(min(n, level) for n in lengths) <= max(budget, 0)
    if level < max(lengths, default=0) and budget >= 0:
        assert sum(min(n, level + 1) for n in lengths) > budget


def test_few_counts_and_no_document_twice() -> None:
    counter = Words(1500)
    budget = PromptBudget(counter)
    docs = [f"d{i} " + "word " * (50 + 7 * i) for i in range(30)]
    for start in (10, 0):
        fitted = budget.fit(PLAIN, window_of(docs[start : start + 20]), reply_tokens=10)
        assert fitted.dropped
    assert counter.counts <= 6
    whole = [text for text in counter.seen if text.startswith("d15 ")]
    assert len(whole) <= 3  # its length once, and a cut for each of two caps


def test_a_full_context_still_searches_few_prompts() -> None:
    counter = Nasty(2600)
    fitted = PromptBudget(counter).fit(PLAIN, window_of(["aeiou bb " * 60] * 10), reply_tokens=20)
    assert 2300 < fitted.tokens <= 2580
    assert counter.counts <= 12


def test_room_for_all_cuts_nothing() -> None:
    fitted = PromptBudget(Characters(1000)).fit(PLAIN, window_of(["one", "", "three"]), reply_tokens=10)
    assert (fitted.dropped, passages(fitted)) == ((), ["one", "", "three"])


def test_the_maximum_cuts_even_where_there_is_room() -> None:
    budget = PromptBudget(Characters(1000), floor=2, max_passage_tokens=4)
    fitted = budget.fit(PLAIN, window_of(["abcdefgh", "abc"]), reply_tokens=10)
    assert (fitted.dropped, passages(fitted)) == ((4, 0), ["abcd", "abc"])


def test_a_smaller_context_is_used() -> None:
    window = window_of(["x" * 400] * 2)
    assert PromptBudget(Characters(1000)).fit(PLAIN, window, reply_tokens=10).dropped == ()
    fitted = PromptBudget(Characters(1000), context_size=300).fit(PLAIN, window, reply_tokens=10)
    assert 285 <= fitted.tokens <= 290


def test_text_without_spaces_is_cut_too() -> None:
    fitted = PromptBudget(Characters(200)).fit(PLAIN, window_of(["跳蚤的寿命" * 100] * 2), reply_tokens=10)
    assert all(fitted.dropped)
    assert fitted.tokens <= 190


def test_no_passages_at_all() -> None:
    fitted = PromptBudget(Characters(100)).fit(PLAIN, window_of([]), reply_tokens=10)
    assert fitted.prompt[0].content == "Query: fleas\nRank 0."


def test_what_cannot_fit_names_both_lengths_and_the_remedy() -> None:
    with pytest.raises(ContextOverflowError) as caught:
        PromptBudget(Characters(300)).fit(PLAIN, window_of(["x" * 99] * 10), reply_tokens=50)
    # 13 + 8 of the instruction, 3 of the turn, 51 of the lines, 10 x 32 of the passages
    assert all(number in caught.value.found for number in ("395", "32", "75", "250", "300"))
    for way in ("--depth", "--method sliding", "--min-passage-tokens", "longer context"):
        assert way in caught.value.remedy


def test_a_query_longer_than_the_context_is_an_error_at_once() -> None:
    counter = Characters(300)
    with raises(ContextOverflowError, "alone: 1", "longer context or lower --depth"):
        PromptBudget(counter).fit(PLAIN, window_of(["x" * 99] * 3, query="y" * 1000), reply_tokens=50)
    assert counter.counts <= 2


def test_a_context_shorter_than_instruction_and_query_must_grow() -> None:
    with pytest.raises(ContextOverflowError) as caught:
        PromptBudget(Characters(300), context_size=20).fit(PLAIN, window_of(["x" * 99] * 3), reply_tokens=27)
    assert "-7 are available" in caught.value.found
    assert caught.value.remedy == "Raise --context-size or use a model with a longer context"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"floor": -1}, ("--min-passage-tokens is -1",)),
        ({"max_passage_tokens": 31}, ("--max-passage-tokens is 31", "--min-passage-tokens is 32")),
        ({"floor": 0, "max_passage_tokens": 0}, ("--max-passage-tokens is 0",)),
        ({"context_size": 101}, ("--context-size is 101", "100")),
        ({"context_size": 0}, ("--context-size is 0",)),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, int], named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        PromptBudget(Characters(100), **options)


def test_titles_white_space_and_brackets_are_prepared() -> None:
    doc = Document(id="1", title="On\nfleas", text="see [2]\n\n[3] > [1]")
    fitted = PromptBudget(Characters(1000)).fit(PLAIN, Window(Query(id="q", text="a\n[1]  b"), (doc,)), reply_tokens=9)
    assert fitted.prompt[0].content == ("Query: a (1) b\n[1] Title: On fleas Content: see (2) (3) > (1)\nRank 1.")


def test_shipped_prompts_fit_too() -> None:
    window = window_of(["word " * 300] * 20)
    for name in ("listwise", "listwise_multiturn"):
        fitted = PromptBudget(Words(1500)).fit(load_prompt(name), window, reply_tokens=50)
        assert 1400 < fitted.tokens <= 1450


SCORED = PromptTemplate(name="scored", prefix="{query}\n", body="[{rank}] ({score}) {candidate}\n", suffix="Rank.")


def test_scores_of_the_window_are_shown_and_counted() -> None:
    docs = tuple(Document(id=str(n), text="x" * 90) for n in range(2))
    window = Window(Query(id="q", text="fleas"), docs, (12.5, -0.25))
    fitted = PromptBudget(Characters(150)).fit(SCORED, window, reply_tokens=10)
    assert fitted.tokens <= 140
    assert all(fitted.dropped)
    assert [line[:12] for line in fitted.prompt[-1].content.split("\n")[1:3]] == ["[1] (12.500)", "[2] (-0.250)"]


def test_a_window_without_scores_cannot_fill_them() -> None:
    with raises(DataError, "1 passages"):
        PromptBudget(Characters(150)).fit(SCORED, window_of(["a"]), reply_tokens=10)

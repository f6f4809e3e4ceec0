"""Properties of the parser for every reply, and replies of real models."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.parsing import parse_permutation
from rerank.parsing.clean import normalize_signs, strip_thoughts
from rerank.parsing.interpretations import interpret
from tests.raising import raises

PIECES = st.from_regex(
    r"\A(\[|\]|\[[0-9]{1,2}\]| ?[><-] ?|, |\n|1\. |Passage 2|[0-9]|[{}:]|\"id\": 2|\"rank\"|</?think>)\Z"
) | st.sampled_from(["①", "²", "［３］", "sorry, I cannot", "and", "```", "9" * 120, "½", "\u2028", "\x00", "\ud800"])
NOISE = st.text() | st.lists(PIECES, max_size=30).map("".join)


@given(
    numbers=st.lists(st.integers(1, 12), unique=True, min_size=1),
    joint=st.sampled_from([" > ", ">", "\n> ", " >\u2028"]),
    form=st.sampled_from(["[{}]", "[ {}]", "[{} ]", "[\n{}]"]),
)
def test_the_requested_form_is_read_as_any_other_text_would_be(numbers: list[int], joint: str, form: str) -> None:
    text = joint.join(form.format(number) for number in numbers)
    interpretation, truncated = interpret(normalize_signs(text), 12)
    assert interpretation is not None
    assert not truncated
    parsed = parse_permutation(text, 12)
    assert tuple(position + 1 for position in parsed.order) == interpretation.numbers == tuple(numbers)
    assert (parsed.status, parsed.detail) == ("ok" if len(numbers) == 12 else "partial", "")


@settings(deadline=None)
@given(text=NOISE, count=st.integers(min_value=0, max_value=30))
@example(text="[" * 5000, count=3)
@example(text='{"a":' * 3000 + "}" * 3000, count=3)
@example(text="9" * 6000, count=3)
@example(text='[{"id": 1, "score": NaN}, {"id": 2, "score": 1e999}]', count=3)
def test_every_text_has_a_result(text: str, count: int) -> None:
    parsed = parse_permutation(text, count)
    assert sorted(parsed.order + parsed.missing) == list(range(count))
    assert list(parsed.missing) == sorted(parsed.missing)
    assert all(not 1 <= number <= count for number in parsed.unknown)
    assert {number - 1 for number in parsed.duplicates} <= set(parsed.order)
    complete = not parsed.missing
    assert complete == (parsed.status in ("ok", "repaired"))
    assert (parsed.status in ("empty", "refused")) == (count > 0 and not parsed.order)
    if parsed.status == "ok":
        assert parsed.detail == ""
    json.dumps(parsed.to_dict())


@settings(deadline=None)
@given(order=st.permutations(range(25)), words=st.sampled_from(["", "Of 25 passages: ", "<think>[3] > [1]</think>"]))
def test_a_ranking_as_asked_is_read_exactly(order: list[int], words: str) -> None:
    parsed = parse_permutation(words + " > ".join(f"[{position + 1}]" for position in order), 25)
    assert parsed.order == tuple(order)
    assert parsed.status == ("repaired" if words.startswith("Of") else "ok")


@settings(deadline=None)
@given(
    order=st.permutations(range(12)), form=st.sampled_from(["lines", "numbered", "names", "json", "bare", "objects"])
)
def test_other_forms_say_the_same(order: list[int], form: str) -> None:
    ids = [position + 1 for position in order]
    text = {
        "lines": "\n".join(f"[{i}]" for i in ids),
        "numbered": "\n".join(f"{rank}. [{i}] because" for rank, i in enumerate(ids, start=1)),
        "names": "\n".join(f"{rank}. Passage {i}" for rank, i in enumerate(ids, start=1)),
        "json": json.dumps({"ranking": ids}),
        "bare": ", ".join(map(str, ids)),
        "objects": json.dumps([{"id": i, "rank": ids.index(i) + 1} for i in sorted(ids)]),
    }[form]
    parsed = parse_permutation(text, 12)
    assert (parsed.order, parsed.status) == (tuple(order), "repaired")
    assert parsed.detail


def test_what_was_dropped_is_told() -> None:
    parsed = parse_permutation("[2] > [7] > [2] > [0] > [1] > [3", 4)
    assert parsed.to_dict() == {
        "order": [2, 1],
        "missing": [3, 4],
        "repeated": [2],
        "foreign": [7, 0],
        "status": "partial",
    }
    assert parsed.detail.split("; ") == [
        "dropped duplicates of 2",
        "dropped unknown identifiers 7, 0",
        "dropped an identifier that the end of the reply truncated",
    ]
    assert parsed.order + parsed.missing == (1, 0, 2, 3)


def test_the_form_that_was_read_is_told() -> None:
    assert parse_permutation("2, 1", 2).detail == "read from bare numbers"
    assert parse_permutation("Ranking: [2] > [1]", 2).detail == "ignored the text around the ranking"
    assert parse_permutation("Passage 2 > Passage 1", 2).detail == "read from passage names"
    assert parse_permutation("It is 2, 1.", 2).detail == "read from bare numbers in a sentence"
    assert parse_permutation("[2] < [1]", 2).detail == "read from a chain in ascending order"


def test_identifiers_have_at_most_a_hundred_digits() -> None:
    assert parse_permutation(f"[{'9' * 100}] > [1]", 1).unknown == (int("9" * 100),)
    assert parse_permutation(f"[{'9' * 101}] > [1]", 1).unknown == ()


def test_a_negative_count_is_refused() -> None:
    with raises(UsageError, "passages is -1"):
        parse_permutation("[1]", -1)


def test_cleaning_keeps_what_stands_outside_thoughts() -> None:
    assert strip_thoughts("a<think>b</think>c<think>d") == "ac"
    assert strip_thoughts("a</think>b</reasoning>c") == "c"
    assert normalize_signs("①②⑳") == " 1  2  20 "


def test_the_first_and_last_enclosed_number_of_every_block_is_read() -> None:
    assert normalize_signs("①⒛⓫⓿❶➓㉑㉟㊱㊿").split() == ["1", "20", "11", "0", "1", "10", "21", "35", "36", "50"]


def test_letters_are_read_as_the_passages_that_they_label() -> None:
    for text in ("[C] > [A] > [B]", "C > A > B"):
        assert parse_permutation(text, 3, ("A", "B", "C")).order == (2, 0, 1)
    # A passage that the reply repeats has round brackets.
    assert parse_permutation("It says (B) > (C) > (A).\n[C] > [A] > [B]", 3, ("A", "B", "C")).order == (2, 0, 1)
    assert parse_permutation("(C) > (A) > (B)", 3, ("A", "B", "C")).order == (2, 0, 1)


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "[1",
        "[1, ",
        "Passage ",
        "1. ",
        "<think>",
        "<",
        "{",
        '{"a": ',
        "1 ",
        "> ",
        "\n",
        "i i ",
        "can not ",
        "²",
        "[1] > ",
        "[1] < ",
        "1 < ",
        "1, ",
        "1-2 ",
        "1 and ",
    ],
)
@pytest.mark.slow  # a time, which a busy machine can spoil
def test_time_is_linear(unit: str) -> None:
    """Sixteen times the text may take no more than a quadratic algorithm's quarter of the time."""

    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        best = float("inf")
        for _ in range(3):
            begun = time.process_time()
            parse_permutation(text, 20)
            best = min(best, time.process_time() - begun)
        return best

    small, large = seconds(8_000), seconds(128_000)
    assert large < 64 * small + 0.05


def _replies(folder: Path, name: str) -> list[str]:
    """The responses of a transcript: JSON objects, written one behind the other."""
    (path,) = folder.glob(name)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = file.read()
    decoder, at, found = json.JSONDecoder(), text.find("{"), []
    while at >= 0:
        row, end = decoder.raw_decode(text, at)
        found.append(row["response"])
        at = text.find("{", end)
    return found


@pytest.mark.shared
def test_clean_transcripts_are_ok(shared: Path) -> None:
    replies = _replies(shared / "data/llm_transcripts", "output_v2_aug*.gz")
    assert len(replies) == 43
    for reply in replies:
        parsed = parse_permutation(reply, 20)
        assert parsed.status == "ok"
        assert [n + 1 for n in parsed.order] == [int(n) for n in re.findall(r"\d+", reply)]


@pytest.mark.shared
def test_broken_transcripts_are_counted(shared: Path) -> None:
    """The oracle knows only that identifiers stand in brackets in these replies and enumerators do not.

    A parser of digits sees 6 clean replies, 367 with repeats and 14 short ones: to it the enumerator of
    "1. [1] > [2]" repeats a passage. Read by identifiers, 6 are as asked, 359 are complete behind enumerators
    and 19 lack passages; 3 say "[] > []".
    """
    replies = _replies(shared / "data/llm_transcripts", "vicuna-7b*.gz")
    assert len(replies) == 387
    for reply in replies:
        said = dict.fromkeys(int(n) - 1 for n in re.findall(r"\[(\d+)\]", reply) if 1 <= int(n) <= 20)
        assert parse_permutation(reply, 20).order == tuple(said), reply
    counted = Counter(parse_permutation(reply, 20).status for reply in replies)
    by_regex = Counter(
        "empty"
        if not (ids := re.findall(r"\[(\d+)\]", reply))
        else "partial"
        if len(set(ids)) < 20
        else "ok"
        if re.fullmatch(r"\[\d+\]( > \[\d+\]){19}", reply.strip())
        else "repaired"
        for reply in replies
    )
    assert counted == by_regex
    assert counted == {"ok": 6, "repaired": 359, "partial": 19, "empty": 3}
    digits = [re.findall(r"\d+", reply) for reply in replies]
    assert sum(len(d) == len(set(d)) == 20 for d in digits) == 6
    assert sum(len(d) != len(set(d)) for d in digits) == 367

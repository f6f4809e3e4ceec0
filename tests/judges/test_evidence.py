"""Evidence of the attention judge: from tokens of a prompt to sentences and words of the documents."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, DataError, PartialFailureError, UsageError
from rerank.judges import Limits, open_judge
from rerank.judges.attention import Attention
from rerank.judges.attention.evidence import (
    EvidenceSpan,
    find_prefixes,
    map_passage,
    score_passage,
    score_units,
    select_evidence,
    split_sentences,
    split_words,
)
from rerank.prompts import PromptTemplate, load_prompt
from rerank.prompts.passages import escape_passage_brackets, passage_text
from rerank.tasks import AttentionTask, Reply
from rerank.types import Document, Query, Window
from tests.raising import raises


def judge(
    options: str = "", *, prompt: str = "icr_qa", limits: Limits | None = None, kind: str = "perfect"
) -> Attention:
    made = open_judge(f"attention{options}", Fake(kind), load_prompt(prompt), limits)
    assert isinstance(made, Attention)
    return made


def evidence(made: Attention, query: str, *documents: Document) -> list[list[tuple[str, float]]]:
    window = Window(Query(id="q", text=query), documents)
    (reply,) = made.backend.generate([made.evidence_request(window)])
    found = made.evidence(window, reply)
    return [
        [(doc.text[span.start : span.end], span.score) for span in spans]
        for doc, spans in zip(documents, found, strict=True)
    ]


def texts(*contents: str, title: str = "") -> list[Document]:
    return [Document(id=str(index), text=text, title=title) for index, text in enumerate(contents)]


# The judge, with a fake model that attends to the words of the query


@pytest.mark.parametrize("prompt", ["icr_qa", "icr_ie"])
@pytest.mark.parametrize("first", ["true", "false"])
def test_sentences_have_the_share_of_their_words(prompt: str, first: str) -> None:
    found = evidence(
        judge(f",best_first={first}", prompt=prompt),
        "fleas and lice",
        *texts("Fleas jump. Dogs bark. Lice and fleas bite.", "Lice crawl.", "", "Cats purr. Owls call."),
    )
    assert found == [
        [("Fleas jump.", 0.25), ("Dogs bark.", 0.0), ("Lice and fleas bite.", 0.75)],
        [("Lice crawl.", 1.0)],
        [],
        [("Cats purr.", 0.0), ("Owls call.", 0.0)],
    ]


def test_labels_and_titles_are_not_evidence() -> None:
    (found,) = evidence(judge(), "title 1 content fleas", *texts("A flea. Fleas!", title="Fleas fleas.  Fleas"))
    assert found == [("A flea.", 0.0), ("Fleas!", 1.0)]
    (nothing,) = evidence(judge(), "fleas", *texts(" ", title="Fleas"))
    assert nothing == []


def test_offsets_are_those_of_the_text_as_it_was_given() -> None:
    text = "\n\u3000An [12] \U0001f415 emoji \t line.\r\n\r\n Fleas [3] \n live here!  "
    (found,) = evidence(judge(), "fleas", *texts(text, title="Some [4]  title"))
    assert found == [("An [12] \U0001f415 emoji \t line.", 0.0), ("Fleas [3] \n live here!", 1.0)]


def test_texts_without_spaces() -> None:
    # The fake model takes a run of letters as a word, and full-width marks divide them.
    (found,) = evidence(judge(), "跳蚤", *texts("狗叫。跳蚤！猫叫"))
    assert found == [("狗叫。", 0.0), ("跳蚤！", 1.0), ("猫叫", 0.0)]


def test_text_beyond_the_context_has_no_span() -> None:
    (document,) = texts("Dogs  bark. " * 4 + "The fleas jump high. Fleas bite. Fleas!")
    whole = judge().evidence_request(Window(Query(id="q", text="fleas"), (document,)))
    # Seven tokens do not fit; three are reserved for the null query, which is longer than the query.
    size = Fake("perfect").tokens.count(whole.prompt) - 7 + 3
    made = open_judge(
        "attention", Fake("perfect", context_size=size), load_prompt("icr_qa"), Limits(min_passage_tokens=1)
    )
    assert isinstance(made, Attention)
    (found,) = evidence(made, "fleas", document)
    assert found[:4] == [("Dogs  bark.", 0.0)] * 4
    assert found[4:] == [("The fleas jump", 1.0)]


def test_the_limit_on_passages_is_that_of_the_ranking_alone() -> None:
    made = judge(limits=Limits(min_passage_tokens=1, max_passage_tokens=3))
    document = Document(id="d", text="Dogs bark. The fleas jump high.")
    assert evidence(made, "fleas", document) == [[("Dogs bark.", 0.0), ("The fleas jump high.", 1.0)]]
    window = Window(Query(id="q", text="fleas"), (document,))
    assert "fleas jump" not in made.make_requests(window)[0].prompt[-1].content


def test_windows_are_divided_so_that_documents_are_whole() -> None:
    fake = Fake("perfect", context_size=150)
    made = open_judge("attention", fake, load_prompt("icr_qa"), Limits(min_passage_tokens=1))
    assert isinstance(made, Attention)
    documents = tuple(texts(*("word " * count for count in (10, 30, 50, 300, 20, 20))))
    parts = made.evidence_windows(Window(Query(id="q", text="fleas"), documents, scores=(6, 5, 4, 3, 2, 1)))
    assert [doc for part in parts for doc in part.docs] == list(documents)
    for part in parts:
        content = made.evidence_request(part).prompt[-1].content
        assert content.count("word") == sum(doc.text.count("word") for doc in part.docs) or len(part) == 1
    assert max(map(len, parts)) > 1


def test_windows_are_divided_into_halves_even_if_they_exceed_the_context_at_the_least_length() -> None:
    window = Window(Query(id="q", text="fleas"), tuple(texts(*["word " * 30] * 6)))

    def parts(context_size: int) -> list[int]:
        fake = Fake("perfect", context_size=context_size)
        made = open_judge("attention", fake, load_prompt("icr_qa"), Limits(min_passage_tokens=30))
        assert isinstance(made, Attention)
        return [len(part) for part in made.evidence_windows(window)]

    assert parts(110) == [2, 1, 2, 1]
    assert parts(70) == [1] * 6
    with raises(ContextOverflowError, "40"):
        parts(40)


def test_the_request_is_that_of_the_ranking_except_for_the_scores_of_tokens() -> None:
    window = Window(Query(id="q", text="fleas"), tuple(texts("Fleas jump.", "Dogs bark.")))
    made = judge()
    (ranking,), asked = made.make_requests(window), made.evidence_request(window)
    assert isinstance(ranking.task, AttentionTask)
    assert replace(asked, task=ranking.task) == ranking
    assert asked.task == replace(ranking.task, per_token=True)
    assert asked.digest({}) != ranking.digest({})
    with raises(UsageError, "per head", "per token"):
        replace(ranking.task, per_token=True, per_head=True)


def test_failed_and_malformed_replies() -> None:
    window = Window(Query(id="q", text="fleas"), tuple(texts("Fleas jump.", "Dogs bark.")))
    with raises(PartialFailureError, "the server is gone"):
        judge().evidence(window, Reply(finish="error", error="the server is gone"))
    with raises(PartialFailureError):
        judge().evidence(window, Reply(finish="refused"))
    for text in ("", "30x9", "[1]", '[["a"],[]]', "{}"):
        with raises(DataError):
            judge().evidence(window, Reply(text=text, scores=(1.0,)))
    with raises(DataError, "2 scores for 1 tokens"):
        judge().evidence(window, Reply(text="[[0],[]]", scores=(1.0, 2.0)))
    with raises(DataError, "3 passages"):
        judge().evidence(window, Reply(text="[[0],[],[]]", scores=(1.0,)))


def test_fake_models_are_deterministic_and_stutter_is_random() -> None:
    documents = texts("Fleas jump. Dogs bark.")
    first, second = (evidence(judge(kind="stutter"), "fleas", *documents) for _ in range(2))
    assert first == second
    assert all(0 < score < 1 for _, score in first[0])


# The map from a prompt to a text


@given(
    st.text(alphabet="ab [1]\n\t\u3000.", max_size=60), st.text(alphabet="ab [1]\n", max_size=12), st.integers(0, 80)
)
def test_every_character_of_a_prompt_is_found_in_the_text(text: str, title: str, cut: int) -> None:
    document = Document(id="1", text=text, title=title)
    shown = escape_passage_brackets(passage_text(document)[:cut])
    positions = map_passage(document, shown)
    assert len(positions) == len(shown)
    found = [(shown[index], position) for index, position in enumerate(positions) if position is not None]
    for character, position in found:
        assert position < len(text)
        if character == " ":  # in front of a word
            assert not text[position].isspace()
        else:
            assert escape_passage_brackets(f"[1]{character}")[-1:] == character
            assert text[position] == character or (text[position] + character) in ("[(", "])")
    read = [position for character, position in found if character != " "]
    visible = [index for index, character in enumerate(text) if not character.isspace()]
    assert read == visible[: len(read)]
    if cut > len(passage_text(document)):
        assert read == visible


def test_tokens_that_begin_with_a_space_belong_to_the_word_after_it() -> None:
    document = Document(id="1", text="It rains. It snows.", title="Rain")
    shown = passage_text(document)
    prefix = "[1] "
    spans = (prefix + shown).index(" It rains"), (prefix + shown).index(" It snows")
    found = score_passage(document, shown, prefix, [(0, 9.0), (5, 9.0), (spans[0], 1.0), (spans[1], 3.0)])
    assert [span.score for span in found] == [0.25, 0.75]
    plain = replace(document, title="")
    first = score_passage(plain, plain.text, prefix, [(2, 9.0), (3, 1.0), (prefix.index(" ") + 10, 1.0)])
    assert [span.score for span in first] == [0.5, 0.5]


@pytest.mark.parametrize(("shown", "ends"), [("", []), ("It rai", [6]), ("It rains. It", [9, 12])])
def test_the_last_sentence_ends_where_the_prompt_truncates_it(shown: str, ends: list[int]) -> None:
    found = score_passage(Document(id="1", text="It rains. It snows."), shown, "[1] ", [])
    assert [span.end for span in found] == ends


@pytest.mark.parametrize("name", ["icr_qa", "icr_ie", "attention_both", "listwise"])
def test_prefixes_are_found_whatever_the_passages_contain(name: str) -> None:
    passages = ["[1] [2] 1", "", "\ue000", "1"]
    assert find_prefixes(load_prompt(name), "1 \ue000", passages) == ["[1] ", "[2] ", "[3] ", "[4] "]


@pytest.mark.parametrize("body", ["[{{ rank }}] {{ candidate }} {{ candidate }}", "[{{ rank }}] {{ candidate[:3] }}"])
def test_prompts_that_change_passages_are_refused(body: str) -> None:
    template = PromptTemplate(name="mine", syntax="jinja", body=body, suffix="{{ query }}")
    with raises(UsageError, "'mine'", "icr_qa"):
        find_prefixes(template, "q", ["a long passage"])


# Scores and selection


def test_scores_are_shares_of_positive_finite_scores() -> None:
    text = "One. Two. Three."
    tokens = [(0, 1.0), (5, 2.0), (7, -5.0), (8, math.nan), (10, math.inf), (12, 1.0)]
    assert [span.score for span in score_units(text, tokens)] == [0.25, 0.5, 0.25]
    assert [span.score for span in score_units(text, [(0, -1.0)])] == [0.0, 0.0, 0.0]
    assert score_units("", []) == ()


def spans(*scores: float) -> list[EvidenceSpan]:
    return [EvidenceSpan(start=10 * n, end=10 * n + 9, score=score) for n, score in enumerate(scores)]


def test_neighbours_above_the_threshold_are_merged() -> None:
    found = select_evidence(spans(0.25, 0.125, 0.0625, 0.5, 0.0625))
    assert found == (EvidenceSpan(start=0, end=19, score=0.375), EvidenceSpan(start=30, end=39, score=0.5))
    assert select_evidence(spans(0.25, 0.125, 0.0625, 0.5), max_spans=1) == found[1:]
    assert select_evidence(spans(0.25, 0.125, 0.0625, 0.5), threshold=0.6) == ()
    (whole,) = select_evidence(spans(0.25, 0.25, 0.5), threshold=0.0)
    assert (whole.start, whole.end, whole.score) == (0, 29, 1.0)


def test_words_have_shares_of_their_own_and_are_merged_above_a_threshold() -> None:
    text = "Fleas jump  high, 跳蚤"
    tokens = [(0, 1.0), (6, 2.0), (8, 1.0), (18, 4.0)]
    words = score_units(text, tokens, "word")
    assert [(text[word.start : word.end], word.score) for word in words] == [
        ("Fleas", 0.125),
        ("jump", 0.375),
        ("high,", 0.0),
        ("跳", 0.5),
        ("蚤", 0.0),
    ]
    merged = select_evidence(words)
    assert [(text[span.start : span.end], span.score) for span in merged] == [("Fleas jump", 0.5), ("跳", 0.5)]
    assert select_evidence(words, threshold=None) == words


def test_invalid_spans_and_settings_are_refused() -> None:
    for wrong in ((3, 3, 0.5), (-1, 3, 0.5), (0, 3, 1.5), (0, 3, math.nan)):
        with pytest.raises(DataError):
            EvidenceSpan(start=wrong[0], end=wrong[1], score=wrong[2])
    with raises(UsageError, "threshold", "1.5"):
        select_evidence((), threshold=1.5)
    with raises(UsageError, "max_spans", "0"):
        select_evidence((), max_spans=0)


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["It rains.", "Snow (a lot!) falls.", "Is 3.5 much?", "Yes."],
        ["Mr. J. Smith of the U.S. Army came.", 'He said "no."', "(He left!)", "Why?!", "Fine..."],
        ["See e.g. this one, i.e. that one.", "See Fig. 3 and No. 5.", "He said no.", "Then he left."],
        ["a wing in a slipstream .", "an experimental study of drag ."],
        ["1. First item.", "2. Second."],
        ["Plus 5.", "مرحبا؟", "نعم۔", "मैं हूँ।", "तुम हो।"],
    ],
)
def test_sentences_end_where_readers_see_them_end(expected: list[str]) -> None:
    assert sentences(" ".join(expected)) == expected
    assert sentences("  " + " \n ".join(expected) + "\n") == expected


@pytest.mark.parametrize(
    "expected",
    [["我爱你。", "他说：「好！」", "然后走了"], ["雨が降る。", "雪も？", "はい！！"], ["မိုးရွာတယ်။", "နှင်းကျတယ်။"]],
)
def test_scripts_without_spaces(expected: list[str]) -> None:
    assert sentences("".join(expected)) == expected


def test_empty_lines_and_bullets_end_sentences_and_other_line_breaks_do_not() -> None:
    found = sentences("A title\n\nhard\nwrapped text\r\n \r\n- one\n- two")
    assert found == ["A title", "hard\nwrapped text", "- one", "- two"]


def test_texts_without_marks_are_divided_at_the_best_place() -> None:
    words = "word " * 300
    assert [len(sentence) for sentence in sentences(words)] == [399, 399, 399, 299]
    assert all(sentence.startswith("word") for sentence in sentences(words))
    commas = "one " * 45 + "\n" + "one two three, " * 60
    assert [len(sentence) for sentence in sentences(commas)] == [390, 389, 299]
    assert all(sentence.endswith(",") for sentence in sentences(commas))
    thai = "ฉันรักแมว " * 60
    assert len(sentences(thai)) > 3
    assert all(sentence.startswith("ฉัน") for sentence in sentences(thai))
    assert {len(sentence) for sentence in sentences("東" * 420)} == {140}
    assert {len(sentence) for sentence in sentences("東東東ab" * 84)} == {140}
    assert {len(sentence) for sentence in sentences("東東abc" * 80)} == {400}


@pytest.mark.parametrize(
    ("character", "lengths"),
    [("e\u0301", [401, 400]), ("\u0301", [401]), ("👩\u200d👧", [400, 402]), ("👩\u200d❤\ufe0f\u200d👩", [403, 402])],
)
def test_a_division_keeps_what_is_read_as_one_character_together(character: str, lengths: list[int]) -> None:
    assert [len(sentence) for sentence in sentences("x" + character * 400)][:2] == lengths


def test_texts_without_letters() -> None:
    assert sentences("") == sentences(" \n ") == []
    assert sentences("...") == ["..."]
    assert sentences("1. 2. 3.") == ["1. 2. 3."]


@given(st.text(alphabet="ab A.!?。,\n\t\u3000\u0301'-1", max_size=900))
def test_every_character_except_white_space_is_in_one_sentence(text: str) -> None:
    found = split_sentences(text)
    inside = [index for start, end in found for index in range(start, end)]
    assert inside == sorted(set(inside))
    assert {index for index, character in enumerate(text) if not character.isspace()} <= set(inside)
    for start, end in found:
        assert text[start:end].strip() == text[start:end] != ""


@given(st.text())
def test_words_cover_everything_but_white_space(text: str) -> None:
    words = split_words(text)
    assert "".join(text[start:end] for start, end in words) == "".join(text.split())


def test_words_of_scripts_without_spaces_are_characters_with_their_marks() -> None:
    text = "no 3.5% 雨天 ดีที่"
    assert [text[start:end] for start, end in split_words(text)] == ["no", "3.5%", "雨", "天", "ดี", "ที่"]

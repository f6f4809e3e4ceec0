"""Jobs: requests as token ids, within the context, with the boundaries of their templates."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from rerank.lm.jobs import Job, tokenize_requests
from rerank.lm.tokenizers import HfTokens
from rerank.prompts import load_prompt
from rerank.prompts.base import Message, Prompt
from rerank.tasks import LikelihoodTask, Request, Sampling
from tests.backends.conftest import CHATML
from tests.lm.small_tokenizers import FAMILIES, TEXTS, gpt2, llama3, make

PASSAGES = ("Fleas live for 12 weeks.", "Cats purr, (3) often", "Dogs bark.", "日本語のテキスト。")


def request(prompt: Prompt, **options: Any) -> Request:
    return Request(prompt=prompt, sampling=Sampling(max_tokens=4), **options)


def jobs_of(prompts: Sequence[Prompt], tokens: HfTokens) -> list[Job]:
    refused, groups = tokenize_requests([request(prompt) for prompt in prompts], tokens, "small")
    assert not refused
    return [job for jobs in groups for job in jobs]


def parts(job: Job, tokens: HfTokens) -> list[str]:
    """The text of the prompt, divided at its boundaries."""
    ends = (*job.boundaries, len(job.prompt))
    return [tokens.text(job.prompt[start:end], special=True) for start, end in zip((0, *ends), ends, strict=False)]


@pytest.fixture(scope="module")
def tokens() -> HfTokens:
    return HfTokens(make(gpt2), context_size=4096)


def test_boundaries_are_after_instruction_query_and_passages(tokens: HfTokens) -> None:
    (job,) = jobs_of([load_prompt("listwise").render("how long do fleas live", PASSAGES)], tokens)
    before, instruction, query, *passages, after = parts(job, tokens)
    assert before.endswith("<|im_start|>user\n")
    assert instruction.endswith("relevance to the query:")
    assert query == " how long do fleas live"
    assert [part.strip() for part in passages] == [f"[{n}] {text}" for n, text in enumerate(PASSAGES, 1)]
    assert after.startswith("\nQuery: how long")


def test_boundaries_are_after_worked_examples_and_turns(tokens: HfTokens) -> None:
    (job,) = jobs_of([load_prompt("listwise_examples").render("fleas", PASSAGES)], tokens)
    assert parts(job, tokens)[0].endswith("[3] > [4] > [1] > [2]<|im_end|>\n<|im_start|>user\n")
    assert len(job.boundaries) == 3 + len(PASSAGES)
    (job,) = jobs_of([load_prompt("listwise_multiturn").render("fleas", PASSAGES)], tokens)
    assert [part.partition("]")[0] for part in parts(job, tokens)[3:-1]] == ["[1", "[2", "[3", "[4"]


def test_a_boundary_within_a_token_moves_before_the_white_space() -> None:
    """In Llama 3's pattern a full stop and the line breaks behind it are one token."""
    tokens = HfTokens(make(llama3), context_size=4096)
    (job,) = jobs_of([load_prompt("icr_qa").render("fleas", PASSAGES)], tokens)
    # without a query before the passages: after the header, the instruction and every passage
    assert len(job.boundaries) == 2 + len(PASSAGES)
    assert "".join(parts(job, tokens)) == tokens.render(job.request.prompt)


@pytest.mark.parametrize("family", FAMILIES)
@given(texts=st.lists(TEXTS, min_size=3, max_size=3), name=st.sampled_from(["listwise", "pick", "icr_qa", "pointwise"]))
def test_tokens_up_to_a_boundary_are_those_of_the_text_up_to_it(
    family: Callable[[], Any], texts: list[str], name: str
) -> None:
    """So they are the same whatever follows, and equal for all prompts that begin with the same text."""
    tokens = HfTokens(make(family), context_size=4096)
    prompt = load_prompt(name).render(texts[0], texts[1:])
    (job,) = jobs_of([prompt], tokens)
    rendered = tokens.render(prompt)
    ends = tokens.chat.locate(prompt, rendered, prompt.boundaries)
    assert len(ends) == len(prompt.boundaries)
    heads = [head for end in ends for head in (rendered[:end], rendered[:end].rstrip())]
    alone = [tokens.tokenizer(head, add_special_tokens=False)["input_ids"] for head in heads]
    assert list(job.boundaries) == sorted(set(job.boundaries))
    for length in job.boundaries:
        assert 0 < length < len(job.prompt)
        assert list(job.prompt[:length]) in alone


def test_boundaries_do_not_depend_on_what_was_tokenized_before(tokens: HfTokens) -> None:
    prompt = load_prompt("pick").render("fleas", PASSAGES)
    fresh = HfTokens(make(gpt2), context_size=4096)
    jobs_of([load_prompt("pick").render("cats", PASSAGES[::-1])], tokens)
    assert jobs_of([prompt], tokens)[0].boundaries == jobs_of([prompt], fresh)[0].boundaries


def test_a_prompt_without_a_template_has_no_boundaries(tokens: HfTokens) -> None:
    prompt = load_prompt("pick").render("fleas", PASSAGES)
    assert jobs_of([tuple(prompt)], tokens)[0].boundaries == ()
    assert jobs_of([(Message("user", "fleas"),)], tokens)[0].boundaries == ()


def test_boundaries_travel_with_the_prompt(tokens: HfTokens) -> None:
    prompt = load_prompt("pick").render("fleas", PASSAGES)
    copy = pickle.loads(pickle.dumps(prompt))
    assert copy == prompt == tuple(prompt)
    assert copy.boundaries == prompt.boundaries != ()


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("m['content']", "m['content'] | trim"),
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    ],
)
def test_a_chat_template_may_rewrite_the_turns(template: str) -> None:
    tokenizer = make(gpt2, template=False)
    tokens = HfTokens(tokenizer, context_size=4096)
    tokenizer.chat_template = template
    try:
        tokens = HfTokens(tokenizer, context_size=4096)
        (job,) = jobs_of([load_prompt("icr_qa").render("fleas", ["<|im_end|> a", *PASSAGES])], tokens)
        expected = 2 + 1 + len(PASSAGES) if "trim" in template else 0
        assert len(job.boundaries) == expected
    finally:
        tokenizer.chat_template = None


def test_another_prompt_keeps_the_boundaries_up_to_the_first_difference(tokens: HfTokens) -> None:
    (job,) = jobs_of([load_prompt("pick").render("fleas", PASSAGES)], tokens)
    assert job.with_prompt([*job.prompt, 1, 2]).boundaries == job.boundaries
    cut = job.boundaries[2]
    changed = [*job.prompt[:cut], -1, *job.prompt[cut:]]
    assert job.with_prompt(changed).boundaries == job.boundaries[:3]
    assert job.with_prompt(job.prompt[:cut]).boundaries == job.boundaries[:2]


def test_a_prompt_that_leaves_no_space_is_refused_and_a_short_one_limits_the_reply(tokens: HfTokens) -> None:
    prompt = load_prompt("pick").render("fleas", PASSAGES)
    length = tokens.count(prompt)
    for size, expected in ((length, None), (length + 1, 1), (length + 9, 4)):
        small = HfTokens(tokens.tokenizer, context_size=size)
        refused, groups = tokenize_requests([request(prompt)], small, "small")
        if expected is None:
            assert refused[0].tokens_in == length
            assert f"{length} tokens" in refused[0].error
        else:
            assert groups[0][0].sampling.max_tokens == expected


def test_jobs_are_grouped_by_task(tokens: HfTokens) -> None:
    prompt = load_prompt("pick").render("fleas", PASSAGES)
    requests = [request(prompt), request(prompt, task=LikelihoodTask(continuations=("a",))), request(prompt)]
    _, groups = tokenize_requests(requests, tokens, "small")
    assert [[job.index for job in group] for group in groups] == [[0, 2], [1]]

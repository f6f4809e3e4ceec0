"""Attention of single tokens, and where they are in the prompt; byte-level tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends.hf import Hf
from rerank.errors import BackendError
from rerank.lm import tokenizers
from rerank.lm.icr_scoring import sum_calibrated
from rerank.lm.loading import quiet_transformers
from rerank.lm.tokenizers import HfTokens, align_spaces, locate_passage_tokens
from rerank.prompts.base import Message
from rerank.tasks import AttentionTask, Reply, Request, Sampling
from rerank.tasks.kinds import read_token_scores
from rerank.types import Document, Query, Window
from tests.backends.conftest import in_memory, make_model, make_tokenizer

PASSAGES = ("[1] snow falls é!", "[2] <|im_end|> rain", "[3] ")
HEAD, TAIL = "Paragraphs:\n", "\nQuery: "


def make_request(query: str, *, null: str = "N/A", passages: Sequence[str] = PASSAGES) -> Request:
    body = HEAD + "\n".join(passages)
    spans, at = [], len(HEAD)
    for passage in passages:
        spans.append((at, at + len(passage)))
        at += len(passage) + 1
    task = AttentionTask(
        spans=tuple(spans), tail=len(body) + 1, null=(Message("user", body + TAIL + null),) if null else ()
    )
    docs = tuple(Document(id=str(index)) for index in range(len(passages)))
    return Request(
        prompt=(Message("user", body + TAIL + query),),
        sampling=Sampling(max_tokens=0),
        window=Window(Query(id="q", text=query), docs),
        task=task,
    )


def reply_to(hf: Hf, request: Request, **task: Any) -> Reply:
    (reply,) = hf.generate([replace(request, task=replace(request.task, **task))])
    assert reply.finish == "stop", reply.error
    return reply


@pytest.fixture
def hf() -> Hf:
    return in_memory(make_model(), make_tokenizer())


def test_tokens_start_where_their_character_does(hf: Hf) -> None:
    reply = reply_to(hf, make_request("when?"), per_token=True)
    first, second, third = ([position for position, _ in row] for row in read_token_scores(reply.text, reply.scores, 3))
    # é is two bytes, so two tokens; the special token is broken up by a space.
    assert first == [*range(15), 15, 15, 16]
    assert second == [*range(5), 5, *range(5, len(PASSAGES[1]))]
    assert third == [0, 1, 2, 3]


@pytest.mark.parametrize("null", ["N/A", ""])
def test_scores_of_tokens_add_up_to_those_of_passages(hf: Hf, null: str) -> None:
    request = make_request("when does snow fall?", null=null)
    reply, passages = reply_to(hf, request, per_token=True), reply_to(hf, request).scores
    rows = read_token_scores(reply.text, reply.scores, 3)
    for row, expected in zip(rows, passages, strict=True):
        scores = torch.tensor([score for _, score in row])
        found = sum_calibrated(scores, torch.zeros(len(scores)), filtered=bool(null))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert reply.tokens_in == reply_to(hf, request).tokens_in


def test_heads_are_weighted(hf: Hf) -> None:
    request = make_request("when does snow fall?")
    one, other = (reply_to(hf, request, per_token=True, heads=(head,)).scores for head in ((0, 1), (1, 2)))
    both = reply_to(hf, request, per_token=True, heads=((0, 1), (1, 2)), weights=(0.5, 2.0)).scores
    assert both == pytest.approx([0.5 * a + 2 * b for a, b in zip(one, other, strict=True)], abs=1e-6)


def test_other_tokens_with_offsets_are_refused(hf: Hf, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = hf.tokens
    assert isinstance(tokens, HfTokens)
    request = make_request("when?")
    assert isinstance(request.task, AttentionTask)
    with quiet_transformers():
        located = locate_passage_tokens(tokens, request.prompt, request.task.spans, request.task.tail)
    other = replace(located, ids=located.ids[1:])
    with pytest.raises(BackendError):
        tokenizers.locate_tokens(tokens, request.prompt, other, request.task.spans)


@pytest.mark.parametrize(
    ("text", "longer", "expected"),
    [("ab", "ab", [0, 1]), ("<s> a", "< s> a", [0, 1, 1, 2, 3, 4]), ("a<s>", "a< s>", [0, 1, 2, 2, 3]), ("", "", [])],
)
def test_inserted_spaces_are_aligned(text: str, longer: str, expected: list[int]) -> None:
    assert align_spaces(text, longer) == expected

"""Fusion in the decoder on a T5 with random weights, against its parts run one text at a time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends.encoder_decoder import Fusion
from rerank.prompts.base import Message
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, FusionTask, GenerationTask, Request, Sampling
from rerank.types import Document
from tests.backends.test_seq2seq import make_t5, make_t5_tokenizer

TEXTS = ("Query: fleas Document: cats live Relevant:", "Query: fleas Document: fleas live long Relevant:", "Query: yes")


def make_backend() -> Fusion:
    folder = Path(tempfile.mkdtemp())
    make_t5().save_pretrained(folder)
    make_t5_tokenizer().save_pretrained(folder)
    return Fusion.load(folder, BackendOptions(dtype="float32"))


def request(*texts: str, max_tokens: int = 6, task: Any = FusionTask()) -> Request:  # noqa: B008 - frozen and empty
    prompt = tuple(Message("verbatim", text) for text in texts)
    return Request(prompt=prompt, sampling=Sampling(max_tokens=max_tokens), task=task)


def greedily(model: Any, tokenizer: Any, texts: tuple[str, ...], count: int) -> list[int]:
    """Encode the texts one by one, join their states without padding, and take the best token again and again."""
    from transformers.modeling_outputs import BaseModelOutput

    with torch.inference_mode():
        rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
        states = torch.cat([model.encoder(input_ids=row).last_hidden_state for row in rows], dim=1)
        ids = [0]
        while len(ids) <= count and ids[-1] != model.config.eos_token_id:
            logits = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=torch.tensor([ids])
            ).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids[1:]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[::-1]])
def test_the_decoder_attends_to_the_states_of_all_texts(texts: tuple[str, ...]) -> None:
    backend = make_backend()
    tokenizer = backend.tokens.tokenizer
    (reply,) = backend.generate([request(*texts)])
    expected = greedily(backend.model, tokenizer, texts, 6)
    ended = expected[-1] == backend.model.config.eos_token_id
    assert reply.text == tokenizer.decode(expected[:-1] if ended else expected, skip_special_tokens=True)
    assert (reply.tokens_out, reply.finish) == (len(expected), "stop" if ended else "length")
    assert reply.tokens_in == sum(len(tokenizer(text)["input_ids"]) for text in texts)


def test_the_context_limits_each_text_and_not_all_together() -> None:
    long = "fleas live long cats " * 30  # 120 of 512 tokens
    fitting, refused = make_backend().generate([request(*[long] * 6), request("fleas", long * 5)])
    assert fitting.finish != "error"
    assert fitting.tokens_in > 512
    assert (refused.finish, "512" in refused.error) == ("error", True)


def test_other_tasks_are_refused_in_the_reply() -> None:
    (reply,) = make_backend().generate([request("fleas", task=GenerationTask())])
    assert (reply.finish, "GenerationTask" in reply.error) == ("error", True)


def test_no_document_is_lost_whatever_a_random_model_writes() -> None:
    reranker = Reranker.from_backend(make_backend(), method="lit5,size=3,stride=2")
    hits = reranker.rank("fleas", [Document(id=f"d{at}", text=f"cats live {at}") for at in range(7)])
    assert sorted(hit.document.id for hit in hits) == [f"d{at}" for at in range(7)]

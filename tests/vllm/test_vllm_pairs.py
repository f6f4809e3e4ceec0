"""Cross-encoders that vLLM runs, on tiny random models: their scores are those of the backend ``cross_encoder``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.cross_encoder import CrossEncoder
from rerank.backends.vllm import Vllm
from rerank.errors import UsageError
from rerank.lm.loading import quiet_transformers
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, CrossEncoderTask, GenerationTask, Request, Sampling
from tests.backends import pairs
from tests.backends.conftest import CHATML, make_tokenizer
from tests.raising import raises
from tests.vllm.conftest import OPTIONS, SHAPE

pytest.importorskip("vllm")

#: Largest difference of a score from that of transformers, in float32; scores of these models differ by about 1.
TOLERANCE = 1e-4
PASSAGES = ("w2 w3", "w1 w9 w4", "w7 " * 40, "", "w5 w6 w1")


def save_decoder(folder: Path, template: str | None, *, labels: int = 1) -> Path:
    """A decoder with a classification head, as conversions of Qwen3-Reranker are (``*-seq-cls``)."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = {"vocab_size": 260, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 512}
    marks = {"pad_token_id": 258, "bos_token_id": 256, "eos_token_id": 257}
    settings: Any = {**SHAPE, **shape, **marks, "num_labels": labels}
    kind: Any = transformers.Qwen3ForSequenceClassification
    with quiet_transformers():
        kind(transformers.Qwen3Config(**settings)).save_pretrained(folder)
        make_tokenizer(template).save_pretrained(folder)
    return folder


def save_encoder(folder: Path, *, labels: int = 1) -> Path:
    with quiet_transformers():
        return pairs.save(folder, labels=labels, hidden_size=64, max_position_embeddings=128)


MODELS: dict[str, Any] = {
    "bert": save_encoder,
    "bert, two labels": lambda folder: save_encoder(folder, labels=2),
    "decoder": lambda folder: save_decoder(folder, None),
    "decoder, two labels, with a chat template": lambda folder: save_decoder(folder, CHATML, labels=2),
}


def request(*passages: str, query: str = "w1 w9") -> Request:
    prompt = tuple(Message("user", text) for text in (query, *passages))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_sentence_transformers(tmp_path: Path, name: str) -> None:
    folder = MODELS[name](tmp_path / "model")
    theirs = CrossEncoder.load(folder, OPTIONS)
    ours = open_model_backend(f"vllm:{folder}", OPTIONS, lazy=True)
    assert (ours.tasks, ours.has_pair_template) == (theirs.tasks, theirs.has_pair_template)  # type: ignore[attr-defined]
    assert ours.tokens.count(request("a b").prompt) == theirs.tokens.count(request("a b").prompt)
    asked = [
        request(*PASSAGES),
        request("w1", query="w3 w4"),
        Request(prompt=(Message("user", "free"),), sampling=Sampling(max_tokens=4)),
    ]
    *replies, other = ours.generate(asked)
    for reply, expected in zip(replies, theirs.generate(asked[:2]), strict=True):
        assert reply.scores == pytest.approx(expected.scores, abs=TOLERANCE)
        assert reply.tokens_in == expected.tokens_in
    assert len({round(score, 2) for score in replies[0].scores}) > 2
    assert other.finish == "error"
    assert GenerationTask.__name__ in other.error


def test_a_reranker_of_vllm_ranks_pairs(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "model")
    ranked = [
        Reranker.from_pretrained(f"{kind}:{folder}", method="cross-encoder", dtype="float32").rank("w1 w9", PASSAGES)
        for kind in ("vllm", "cross_encoder")
    ]
    orders = [[hit.corpus_id for hit in hits] for hits in ranked]
    assert orders[0] == orders[1]
    with raises(UsageError, "GenerationTask", "vllm"):
        Reranker.from_pretrained(f"vllm:{folder}", method="fullrank", dtype="float32")


def test_a_pair_that_is_too_long_is_an_error_reply_and_others_are_answered(tmp_path: Path) -> None:
    backend = Vllm.load(save_encoder(tmp_path / "model"), OPTIONS.model_copy(update={"context_size": 20}))
    long, short = backend.generate([request("w1", "w2 " * 30), request("w1")])
    assert long.finish == "error"
    assert "A pair has" in long.error
    assert len(short.scores) == 1


@pytest.mark.parametrize(
    ("options", "said"), [({"adapter": "somewhere"}, "adapter"), ({"vllm_options": "max_model_len=9999"}, "at most")]
)
def test_options_that_a_cross_encoder_does_not_take(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with raises(UsageError, said):
        Vllm.load(save_encoder(tmp_path / "model"), BackendOptions(**options))

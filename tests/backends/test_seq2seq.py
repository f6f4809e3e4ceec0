"""A T5 with random weights: scores are those of the first token that the decoder writes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.encoder_decoder import Seq2seq
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, ContinuationTask, GenerationTask, Request, Sampling
from rerank.types import Document, Query, Window

pytest.importorskip("torch")
pytest.importorskip("transformers")
WORDS = ["Query:", "Document:", "Relevant:", "true", "false", "yes", "no", "fleas", "live", "long", "cats"]


def make_t5_tokenizer() -> Any:
    """SentencePiece's marks of word starts, as in T5, with a token for each word and for each letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for word in WORDS for letter in word} | {"▁"})
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), *letters]
    scores = [(piece, -float(len(pieces)) if len(piece) == 1 else -1.0) for piece in pieces]
    raw = Tokenizer(models.Unigram(scores, unk_id=2))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512, **marks)  # type: ignore[no-untyped-call]


def make_t5(kind: str = "T5") -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    sizes: Any = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, decoder_start_token_id=0, initializer_factor=5.0, **sizes
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


def make_backend() -> Seq2seq:
    folder = Path(tempfile.mkdtemp())
    make_t5().save_pretrained(folder)
    make_t5_tokenizer().save_pretrained(folder)
    return Seq2seq.load(folder, BackendOptions(dtype="float32"))


def ask(text: str, *words: str, task: Any = ContinuationTask) -> Request:
    prompt = (Message("verbatim", text),)
    window = Window(Query(id="q", text="q"), (Document(id="d", text=text),))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=1), window=window, task=task(continuations=words))


def test_scores_do_not_depend_on_the_batch() -> None:
    import torch

    backend, texts = make_backend(), ["fleas", "Query: cats live long Document: fleas live long Relevant:"]
    replies = backend.generate([ask(text, "true", "false") for text in texts])
    tokenizer = make_t5_tokenizer()
    true, false = tokenizer.convert_tokens_to_ids(["▁true", "▁false"])
    for text, reply in zip(texts, replies, strict=True):
        with torch.inference_mode():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            logits = backend.model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        logs = logits.log_softmax(-1)
        assert reply.scores == pytest.approx([float(logs[true]), float(logs[false])], abs=1e-4)


def test_longer_words_and_other_tasks_are_failed_replies() -> None:
    backend = make_backend()
    (longer,) = backend.generate([ask("fleas", "true false")])
    (other,) = backend.generate([replace(ask("fleas", "true"), task=GenerationTask())])
    assert (longer.finish, other.finish) == ("error", "error")

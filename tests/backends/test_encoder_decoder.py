"""A T5 with random weights: scores of the first token, and fusion in the decoder, against its parts run one by one."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends.encoder_decoder import Fusion, Seq2seq
from rerank.prompts.base import Message
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, ContinuationTask, FusionTask, GenerationTask, Request, Sampling
from rerank.types import Document, Query, Window

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
    import transformers

    torch.manual_seed(0)
    sizes: Any = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, decoder_start_token_id=0, initializer_factor=5.0, **sizes
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


def make_backend(kind: Any = Seq2seq) -> Any:
    folder = Path(tempfile.mkdtemp())
    make_t5().save_pretrained(folder)
    make_t5_tokenizer().save_pretrained(folder)
    return kind.load(folder, BackendOptions(dtype="float32"))


def ask(text: str, *words: str, task: Any = ContinuationTask) -> Request:
    prompt = (Message("verbatim", text),)
    window = Window(Query(id="q", text="q"), (Document(id="d", text=text),))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=1), window=window, task=task(continuations=words))


def test_scores_do_not_depend_on_the_batch() -> None:
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


TEXTS = ("Query: fleas Document: cats live Relevant:", "Query: fleas Document: fleas live long Relevant:", "Query: yes")


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
    backend = make_backend(Fusion)
    tokenizer = backend.tokens.tokenizer
    (reply,) = backend.generate([request(*texts)])
    expected = greedily(backend.model, tokenizer, texts, 6)
    ended = expected[-1] == backend.model.config.eos_token_id
    assert reply.text == tokenizer.decode(expected[:-1] if ended else expected, skip_special_tokens=True)
    assert (reply.tokens_out, reply.finish) == (len(expected), "stop" if ended else "length")
    assert reply.tokens_in == sum(len(tokenizer(text)["input_ids"]) for text in texts)


def test_texts_are_encoded_in_smaller_batches_if_memory_runs_out() -> None:
    backend = make_backend(Fusion)
    (expected,) = backend.generate([request(*TEXTS)])
    room, tried = 1, []

    def check(_: Any, args: Any, values: dict[str, Any]) -> None:
        tried.append(len(values["input_ids"]))
        if tried[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    backend.model.get_encoder().register_forward_pre_hook(check, with_kwargs=True)
    (reply,) = backend.generate([request(*TEXTS)])
    assert (reply.text, reply.tokens_in) == (expected.text, expected.tokens_in)
    assert tried == [3, 1, 2, 1, 1]
    room = 0
    (failed,) = backend.generate([request(*TEXTS)])
    assert (failed.finish, f"{expected.tokens_in} tokens: CUDA out of memory" in failed.error) == ("error", True)
    room = 3
    (narrow,) = backend.generate([request(*["fleas"] * 40)])  # more tokens in all, but none as long
    assert narrow.tokens_in > expected.tokens_in
    assert narrow.finish != "error"


def test_the_context_limits_each_text_and_not_all_together() -> None:
    long = "fleas live long cats " * 30  # 120 of 512 tokens
    fitting, refused = make_backend(Fusion).generate([request(*[long] * 6), request("fleas", long * 5)])
    assert fitting.finish != "error"
    assert fitting.tokens_in > 512
    assert (refused.finish, "512" in refused.error) == ("error", True)


def test_other_tasks_are_refused_in_the_reply() -> None:
    (reply,) = make_backend(Fusion).generate([request("fleas", task=GenerationTask())])
    assert (reply.finish, "GenerationTask" in reply.error) == ("error", True)


def test_no_document_is_lost_whatever_a_random_model_writes() -> None:
    reranker = Reranker.from_backend(make_backend(Fusion), method="lit5,size=3,stride=2")
    hits = reranker.rank("fleas", [Document(id=f"d{at}", text=f"cats live {at}") for at in range(7)])
    assert sorted(hit.document.id for hit in hits) == [f"d{at}" for at in range(7)]


def test_a_repository_with_only_a_file_of_sentencepiece_loads(tmp_path: Path) -> None:
    """As T5 was published: no tokenizer.json. Reading spiece.model takes sentencepiece and protobuf, parts of `hf`."""
    pieces = pytest.importorskip("sentencepiece")
    prefix, text = tmp_path / "spiece", " ".join(WORDS)
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    options = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
    pieces.SentencePieceTrainer.train(sentence_iterator=iter([text] * 9), model_prefix=str(prefix), **ids, **options)
    make_t5().save_pretrained(tmp_path)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 512}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    backend: Any = Seq2seq.load(tmp_path, BackendOptions(dtype="float32"))
    assert list(backend.tokens.plain(text)) == pieces.SentencePieceProcessor(model_file=f"{prefix}.model").encode(text)

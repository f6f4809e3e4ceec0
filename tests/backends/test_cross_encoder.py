"""Cross-encoders on tiny random models that are saved and loaded as users' models are."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import torch

from rerank.backends.cross_encoder import CrossEncoder
from rerank.errors import BackendError, DataError, MissingResourceError, RerankError, UsageError
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, CrossEncoderTask, Request, Sampling
from tests.backends.pairs import save
from tests.raising import raises

FLOAT32 = BackendOptions(dtype="float32", device="cpu")
PASSAGES = ("w1 w2", "w3 w4 w5 w6 w7 w8", "", "w9", "w1 w2 w3")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "pairs")


@pytest.fixture
def loaded(folder: Path) -> CrossEncoder:
    return CrossEncoder.load(folder, FLOAT32)


def request(*passages: str, query: str = "w1 w9") -> Request:
    prompt = tuple(Message("user", text) for text in (query, *passages))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())


def plainly(folder: Path, passages: tuple[str, ...], query: str = "w1 w9") -> list[list[float]]:
    """Logits of transformers' own classes, one pair at a time."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer([query], [text], return_tensors="pt")).logits[0] for text in passages]
    return [row.tolist() for row in rows]


def test_scores_are_the_logits_of_every_pair(folder: Path, loaded: CrossEncoder) -> None:
    first, second = loaded.generate([request(*PASSAGES), request("w5")])
    assert first.scores == pytest.approx([logit for (logit,) in plainly(folder, PASSAGES)], abs=1e-5)
    assert second.scores == pytest.approx(plainly(folder, ("w5",))[0], abs=1e-5)
    assert min(first.scores) < 0  # no sigmoid
    assert (first.finish, first.text, first.tokens_out) == ("stop", "", 0)
    assert first.seconds > 0


def test_two_labels_are_scored_by_the_log_odds_of_the_second(tmp_path: Path) -> None:
    folder = save(tmp_path / "two", labels=2)
    (reply,) = CrossEncoder.load(folder, FLOAT32).generate([request(*PASSAGES)])
    wanted = [relevant - irrelevant for irrelevant, relevant in plainly(folder, PASSAGES)]
    assert reply.scores == pytest.approx(wanted, abs=1e-5)


def test_three_labels_are_no_relevance(tmp_path: Path) -> None:
    with raises(UsageError, "three'", "3 labels"):
        CrossEncoder.load(save(tmp_path / "three", labels=3), FLOAT32)


def test_tokens_are_those_of_the_pairs(loaded: CrossEncoder) -> None:
    asked = request(*PASSAGES)
    (reply,) = loaded.generate([asked])
    assert reply.tokens_in == loaded.tokens.count(asked.prompt) == sum(2 + 3 + len(text.split()) for text in PASSAGES)
    assert loaded.tokens.count(request().prompt) == 5
    assert loaded.tokens.count(()) == 0
    assert loaded.tokens.context_size == 24
    assert loaded.tokens.cut("w1 w2 w3", 2) == "w1 w2"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_do_not_matter(folder: Path, loaded: CrossEncoder, size: int) -> None:
    (whole,) = loaded.generate([request(*PASSAGES)])
    (parts,) = CrossEncoder.load(folder, BackendOptions(dtype="float32", batch_size=size)).generate(
        [request(*PASSAGES)]
    )
    assert parts.scores == pytest.approx(whole.scores, abs=1e-5)


def test_what_it_cannot_do_is_a_reply_that_says_so(loaded: CrossEncoder) -> None:
    written, long = loaded.generate(
        [Request(prompt=request("w1").prompt, sampling=Sampling(max_tokens=3)), request("w1", "w2 " * 20)]
    )
    assert written.finish == long.finish == "error"
    assert "GenerationTask" in written.error
    assert all(number in long.error for number in ("25", "24"))


def test_identity_follows_the_weights_and_the_dtype(folder: Path, loaded: CrossEncoder, tmp_path: Path) -> None:
    assert (loaded.identity["model"], loaded.identity["dtype"]) == ("pairs", "float32")
    assert len(loaded.identity["weights"]) == 64
    other = CrossEncoder.load(save(tmp_path / "pairs", hidden_size=32), FLOAT32)
    assert other.identity["weights"] != loaded.identity["weights"]
    half = CrossEncoder.load(folder, BackendOptions(dtype="bfloat16"))
    assert half.identity == {**loaded.identity, "dtype": "bfloat16"}
    assert half.generate([request(*PASSAGES)])[0].scores == pytest.approx(
        loaded.generate([request(*PASSAGES)])[0].scores, abs=0.5
    )


def test_memory_that_runs_out_halves_the_batch(loaded: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    predict = loaded.model.predict

    def scarce(room: int) -> Callable[..., Any]:
        def run(pairs: Any, *, batch_size: int, **more: Any) -> Any:
            tried.append(len(pairs))
            if len(pairs) > room:
                raise RuntimeError("CUDA out of memory")
            return predict(pairs, batch_size=batch_size, **more)

        return run

    (wanted,) = loaded.generate([request(*PASSAGES)])
    monkeypatch.setattr(loaded.model, "predict", scarce(4))
    (reply,) = loaded.generate([request(*PASSAGES)])
    assert reply.scores == pytest.approx(wanted.scores, abs=1e-5)
    assert tried == [5, 2, 3]  # the batches that fit are not repeated
    monkeypatch.setattr(loaded.model, "predict", scarce(0))
    (failed,) = loaded.generate([request(*PASSAGES)])
    assert (failed.finish, failed.scores) == ("error", ())
    assert "Out of memory" in failed.error


def test_another_failure_of_the_model_is_an_error(loaded: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("Cannot handle batch sizes > 1 if no padding token is defined.")

    monkeypatch.setattr(loaded.model, "predict", broken)
    with raises(BackendError, "5 pairs", "Cannot handle"):
        loaded.generate([request(*PASSAGES)])


def slow(model: Any, seconds: float) -> list[int]:
    """Make every batch of a model take time; return the list of their sizes, which grows with each."""
    sizes: list[int] = []

    def wait(_: Any, arguments: tuple[dict[str, Any]]) -> None:
        sizes.append(len(arguments[0]["input_ids"]))
        time.sleep(seconds)

    model.register_forward_pre_hook(wait)
    return sizes


def test_a_deadline_ends_a_list_after_the_batch_of_pairs_in_which_it_passes(folder: Path) -> None:
    backend = CrossEncoder.load(folder, BackendOptions(dtype="float32", batch_size=2))
    sizes = slow(backend.model, 0.3)
    with Reranker.from_backend(backend, method="cross-encoder") as reranker:
        hits = reranker.rank("w1 w9", PASSAGES, deadline=0.2)
        assert [hit.corpus_id for hit in hits] == [0, 1, 2, 3, 4]
        assert (hits.expired, {hit.score for hit in hits}, sizes) == (True, {None}, [2])
        assert "deadline passed" in hits.notes[0]
        whole = reranker.rank("w1 w9", PASSAGES, deadline=60)
    assert (whole.expired, sizes) == (False, [2, 2, 2, 1])
    logits = [logit for (logit,) in plainly(folder, PASSAGES)]
    assert [hit.score for hit in whole] == pytest.approx(sorted(logits, reverse=True), abs=1e-5)


def test_a_cancelled_list_ends_after_its_batch_and_the_next_one_starts(folder: Path) -> None:
    backend = CrossEncoder.load(folder, BackendOptions(dtype="float32", batch_size=1))
    sizes = slow(backend.model, 0.2)
    reranker = Reranker.from_backend(backend, method="cross-encoder")

    async def two() -> list[int]:
        first = asyncio.create_task(reranker.arank("w1 w9", PASSAGES))
        while not sizes:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return [hit.corpus_id for hit in await reranker.arank("w1", ["w2", "w3"])]

    assert sorted(asyncio.run(two())) == [0, 1]
    assert len(sizes) == 1 + 2
    reranker.close()


def damage(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.safetensors", b"\x08", DataError),
        ("config.json", b"{", MissingResourceError),
        ("tokenizer.json", None, MissingResourceError),
    ],
)
def test_damaged_folders(
    folder: Path, tmp_path: Path, name: str, content: bytes | None, error: type[RerankError]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copy, name, content)
    with raises(error, "copy"):
        CrossEncoder.load(copy, FLOAT32)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with raises(MissingResourceError, "safetensors"):
        CrossEncoder.load(copy, FLOAT32)


def test_what_is_no_cross_encoder_is_refused_before_it_gets_a_random_head(tmp_path: Path) -> None:
    with raises(UsageError, "BertModel", "ForSequenceClassification", "--method pointwise"):
        CrossEncoder.load(save(tmp_path / "base", base=True), FLOAT32)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"adapter": "some/adapter"}, ("--adapter is some/adapter",)),
        ({"device_map": "auto"}, ("--device-map is auto",)),
        ({"context_size": 25}, ("--context-size is 25", "24")),
        ({"device": "tpu"}, ("tpu",)),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, options: dict[str, Any], named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        CrossEncoder.load(folder, BackendOptions(**options))


def test_the_method_opens_it_and_cuts_what_is_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user would: a folder, a method, documents of any length."""
    assert isinstance(open_model_backend(str(folder), FLOAT32, kind="cross_encoder"), CrossEncoder)
    assert isinstance(open_model_backend(f"cross-encoder:{folder}", FLOAT32), CrossEncoder)
    reranker = Reranker.from_pretrained(
        str(folder), method="cross-encoder", min_passage_tokens=2, dtype="float32", device="cpu"
    )
    texts = [*PASSAGES, "w7 " * 500]
    hits = reranker.rank("w1 w9", texts)
    room = 24 - 3 - 2
    logits = [logit for (logit,) in plainly(folder, (*PASSAGES, " ".join(["w7"] * room)))]
    assert [hit.corpus_id for hit in hits] == sorted(range(6), key=lambda at: -logits[at])
    assert hits.windows["ok"] == 1


def test_language_models_judges_are_refused(loaded: CrossEncoder) -> None:
    with raises(UsageError, "'generate'"):
        Reranker.from_backend(loaded, method="fullrank")

"""jina-reranker-v3 on a tiny random model, against its formula computed with torch alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends.jina_ranking import JinaRanking, render_ranking_prompt
from rerank.errors import DataError, UsageError
from rerank.prompts.base import Message
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, CrossEncoderTask, Reply, Request, Sampling
from rerank.tasks.interruption import CallInterruptedError, interruptible
from rerank.types import Document
from tests.backends import jina
from tests.backends.pairs import save as save_cross_encoder
from tests.raising import raises

FLOAT32 = BackendOptions(dtype="float32", device="cpu")
QUERY = "how long do fleas live"
PASSAGES = ("Fleas live for 100 days.", "", "A castle has towers, and each of them is high.", "fleas, fleas")


def make_backend() -> JinaRanking:
    return JinaRanking.load(jina.save(Path(tempfile.mkdtemp())), FLOAT32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jina.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> JinaRanking:
    return JinaRanking.load(folder, FLOAT32)


def request(*passages: str, query: str = QUERY) -> Request:
    prompt = tuple(Message("user", text) for text in (query, *passages))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())


def vectors(folder: Path, query: str, passages: tuple[str, ...]) -> tuple[Any, Any]:
    """The projected last hidden states at the tokens of passages and query, with transformers' own classes."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, Qwen3Model

    weights = load_file(folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(render_ranking_prompt(query, passages), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        model: Any = Qwen3Model.from_pretrained(folder, dtype="float32")
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        hidden = torch.relu(states @ weights["projector.0.weight"].T) @ weights["projector.2.weight"].T
    passage, asked = (tokenizer.convert_tokens_to_ids(mark) for mark in (jina.PASSAGE, jina.QUERY))
    return hidden[ids[0] == passage], hidden[ids[0] == asked][0]


def cosines(passages: Any, query: Any) -> list[float]:
    return [float(passage @ query / (passage.norm() * query.norm())) for passage in passages]


def test_scores_are_the_cosines_of_the_projected_states(folder: Path, loaded: JinaRanking) -> None:
    (reply,) = loaded.generate([request(*PASSAGES)])
    assert reply.scores == pytest.approx(cosines(*vectors(folder, QUERY, PASSAGES)), abs=1e-5)
    assert len(set(reply.scores)) == len(PASSAGES)
    assert (reply.finish, reply.text, reply.tokens_out) == ("stop", "", 0)


def test_blocks_are_compared_with_the_weighted_mean_of_the_querys_vectors(folder: Path) -> None:
    backend = JinaRanking.load(folder, BackendOptions(dtype="float32", device="cpu", batch_size=3))
    assert backend.identity["passages_per_pass"] == "3"
    (reply,) = backend.generate([request(*PASSAGES)])
    first, second = (vectors(folder, QUERY, part) for part in (PASSAGES[:3], PASSAGES[3:]))
    weights = [(1 + max(cosines(*block))) / 2 for block in (first, second)]
    query = (weights[0] * first[1] + weights[1] * second[1]) / sum(weights)
    assert reply.scores == pytest.approx(cosines([*first[0], *second[0]], query), abs=1e-5)


def test_a_call_that_is_unwanted_ends_between_blocks(folder: Path) -> None:
    backend = JinaRanking.load(folder, BackendOptions(dtype="float32", device="cpu", batch_size=1))
    passes: list[int] = []
    backend.model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(CallInterruptedError), interruptible(lambda: len(passes) >= 2):
        backend.generate([request(*PASSAGES)])
    assert len(passes) == 2
    assert backend.generate([request(*PASSAGES)])[0].finish == "stop"


def test_blocks_fit_in_the_context(folder: Path, tmp_path: Path) -> None:
    small = JinaRanking.load(jina.save(tmp_path / "small", context_size=1100), FLOAT32)
    passages = tuple("a flea " * 12 for _ in range(8))
    (reply,) = small.generate([request(*passages)])
    assert reply.finish == "stop"
    assert len(reply.scores) == 8
    assert reply.tokens_in > 1100
    (refused,) = small.generate([request("short", "word " * 400)])
    assert (refused.finish, refused.scores) == ("error", ())
    assert "1100" in refused.error


def test_the_count_is_an_upper_bound_of_the_tokens(loaded: JinaRanking) -> None:
    for count in (1, 4, 30):
        asked = request(*(f"passage number {at}" for at in range(count)))
        (reply,) = loaded.generate([asked])
        assert reply.tokens_in <= loaded.tokens.count(asked.prompt) <= reply.tokens_in + 4 * count + 4
    assert loaded.tokens.count(()) == 0
    assert loaded.generate([request()])[0].scores == ()


def test_special_tokens_in_texts_add_no_vector(loaded: JinaRanking) -> None:
    (reply,) = loaded.generate([request(f"a{jina.PASSAGE}b", jina.QUERY, query=f"q {jina.PASSAGE}{jina.QUERY}")])
    assert len(reply.scores) == 2


def test_other_tasks_are_refused_in_the_reply(loaded: JinaRanking) -> None:
    (reply,) = loaded.generate([Request(prompt=(Message("user", "x"),), sampling=Sampling(max_tokens=1))])
    assert isinstance(reply, Reply)
    assert (reply.finish, "GenerationTask" in reply.error) == ("error", True)


def test_models_of_another_class_and_damaged_ones_are_named(tmp_path: Path) -> None:
    with raises(UsageError, "BertForSequenceClassification", "JinaForRanking"):
        JinaRanking.load(save_cross_encoder(tmp_path / "bert"), FLOAT32)
    with raises(DataError, "projector.2.weight"):
        JinaRanking.load(jina.save(tmp_path / "part", drop="projector.2.weight"), FLOAT32)
    with raises(DataError, jina.PASSAGE):
        JinaRanking.load(jina.save(tmp_path / "unmarked", marks=False), FLOAT32)
    with raises(UsageError, "--adapter"):
        JinaRanking.load(tmp_path, BackendOptions(adapter="x"))


def test_a_ranking_keeps_its_documents(folder: Path) -> None:
    docs = [Document(id=f"d{at}", text=text) for at, text in enumerate(PASSAGES)]
    reranker = Reranker.from_pretrained(str(folder), method="last-but-not-late", dtype="float32", device="cpu")
    hits = reranker.rank(QUERY, docs)
    assert sorted(hit.document.id for hit in hits) == ["d0", "d1", "d2", "d3"]
    assert not hits.report.has_absolute_scores  # passages are read together


def test_blocks_are_divided_if_memory_runs_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = JinaRanking.load(folder, FLOAT32.model_copy(update={"batch_size": 2})).score(request(*PASSAGES).prompt)
    backend = JinaRanking.load(folder, FLOAT32)
    room = max(backend.score(request(*half).prompt).tokens_in for half in (PASSAGES[:2], PASSAGES[2:]))
    backend, tried = JinaRanking.load(folder, FLOAT32), 0

    def check(_: Any, args: Any, values: dict[str, Any]) -> None:
        nonlocal tried
        tried += 1
        if values["input_ids"].shape[1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    backend.model.model.register_forward_pre_hook(check, with_kwargs=True)
    for passes in (3, 3, 2):  # of 4, 2 and 2 passages; 3, 2 and 2; then what fits is known
        tried = 0
        assert backend.score(request(*PASSAGES).prompt).scores == pytest.approx(expected.scores, abs=1e-5)
        assert tried == passes
    assert caplog.text.count("smaller blocks") == 1
    room = 0
    reply = backend.score(request(PASSAGES[2]).prompt)
    assert (reply.finish, f"{reply.tokens_in} tokens" in reply.error) == ("error", True)

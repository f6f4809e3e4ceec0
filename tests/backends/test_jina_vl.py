"""jina-reranker-m0 on a tiny random model, against its formula, computed with transformers' Qwen2-VL and the head."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("PIL")
pytest.importorskip("torchvision")

import torch

from rerank.assemble import assemble_ranker
from rerank.backends.jina_vl import JinaVl
from rerank.errors import DataError, UsageError
from rerank.io.pictures import open_picture
from rerank.judges import Limits, open_judge
from rerank.prompts import load_prompt
from rerank.prompts.base import PICTURE, Message
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, HeadTask, Request, Sampling
from rerank.types import Document, Query, Window
from tests.backends.pairs import save as save_cross_encoder
from tests.backends.seeing import draw, make_jina, make_qwen
from tests.judging import judge_windows
from tests.raising import raises

FLOAT32 = BackendOptions(dtype="float32", device="cpu")
QUERY = "a fox?"
#: What the cited source writes for a picture.
SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"


def make_backend() -> JinaVl:
    return JinaVl.load(make_jina(Path(tempfile.mkdtemp())), FLOAT32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_jina(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> JinaVl:
    return JinaVl.load(folder, FLOAT32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw(tmp_path_factory.mktemp("pictures"))


def score_by_hand(folder: Path, document: str, *paths: str, query: str = QUERY) -> float:
    """w2 relu(W0 h + b0) + b2 - 2.65, where h is the last hidden state at token 100 after the prompt."""
    from safetensors.torch import load_file

    model, processor = make_qwen()
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 602112}
    text = f"**Document**:\n{document}\n**Query**:\n{query}"
    inputs: dict[str, Any] = dict(
        processor(text=[text], images=[open_picture(path) for path in paths] or None, return_tensors="pt")
    )
    inputs["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (0, 1), value=100)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    weights = load_file(folder / "model.safetensors")
    with torch.inference_mode():
        state = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        hidden = torch.relu(weights["score.0.weight"] @ state + weights["score.0.bias"])
        return float(weights["score.2.weight"][0] @ hidden + weights["score.2.bias"][0]) - 2.65


def scores_of(backend: JinaVl, *docs: Document, query: str = QUERY) -> list[float]:
    judge = open_judge("head", backend, load_prompt("jina_m0"), Limits(max_passage_tokens=64))
    (verdict,) = judge_windows(judge, [Window(Query(id="q", text=query), docs)])
    return [score or 0.0 for score in verdict.scores]


def test_scores_of_texts_and_pictures_are_those_of_the_formula(folder: Path, loaded: JinaVl, paths: list[str]) -> None:
    docs = (
        Document(id="t", text="a [1] blue whale", title="Whales"),
        Document(id="p", text="", image=paths[0]),
        Document(id="o", text="", image=paths[1]),
        Document(id="b", text="a red fox", image=paths[0]),
    )
    expected = [
        score_by_hand(folder, "Whales a [1] blue whale"),
        score_by_hand(folder, SHOWN, paths[0]),
        score_by_hand(folder, SHOWN, paths[1]),
        score_by_hand(folder, f"{SHOWN}a red fox", paths[0]),
    ]
    assert scores_of(loaded, *docs) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) == 4


def test_marks_in_texts_are_no_pictures(folder: Path, loaded: JinaVl) -> None:
    (score,) = scores_of(loaded, Document(id="t", text=f"{SHOWN} fox"), query="<|image_pad|>")
    escaped = SHOWN.replace("<", "(").replace(">", ")")
    assert score == pytest.approx(score_by_hand(folder, f"{escaped} fox", query="(|image_pad|)"), abs=1e-5)


def test_pictures_have_the_sizes_of_the_authors_code(loaded: JinaVl, paths: list[str]) -> None:
    # 24 x 20 pixels are enlarged to at least 3136 pixels, here 64 x 56, with 64 per token; the model's files say less.
    one, two = (loaded.tokens.count((Message("user", PICTURE * n, images=(paths[0],) * n),)) for n in (1, 2))
    assert two - one == 8 * 7 + 2


def test_new_names_of_the_weights_give_the_same_scores(loaded: JinaVl, paths: list[str], tmp_path: Path) -> None:
    docs = (Document(id="t", text="a fox"), Document(id="p", text="", image=paths[0]))
    renamed = JinaVl.load(make_jina(tmp_path / "new", new_names=True), FLOAT32)
    assert scores_of(renamed, *docs) == scores_of(loaded, *docs)


def test_an_unreadable_picture_and_another_task_are_errors_of_their_requests(loaded: JinaVl, paths: list[str]) -> None:
    sampling = Sampling(max_tokens=0)
    missing = (Message("verbatim", "\ufffc", images=("no.png",)),)
    asked = Request(prompt=missing, sampling=sampling, task=HeadTask())
    good = Request(prompt=(Message("verbatim", "\ufffc", images=(paths[0],)),), sampling=sampling, task=HeadTask())
    written = Request(prompt=good.prompt, sampling=sampling)
    first, second, third = loaded.generate([asked, good, written])
    assert (first.finish, "no.png" in first.error) == ("error", True)
    assert (second.finish, len(second.scores), second.tokens_in) == ("stop", 1, loaded.tokens.count(good.prompt))
    assert (third.finish, "'jina-vl' does not support GenerationTask" in third.error) == ("error", True)


def test_models_of_another_class_and_damaged_ones_are_named(tmp_path: Path) -> None:
    with raises(UsageError, "BertForSequenceClassification", "JinaVLForRanking"):
        JinaVl.load(save_cross_encoder(tmp_path / "bert"), FLOAT32)
    with raises(DataError, "score.2.weight"):
        JinaVl.load(make_jina(tmp_path / "part", drop="score.2.weight"), FLOAT32)
    with raises(UsageError, "'vlm' of model 'vlm:jina-reranker-m0'", "without the backend before the colon"):
        assemble_ranker({"model": "vlm:jina-reranker-m0"}).check_backend()
    with raises(UsageError, "--adapter"):
        JinaVl.load(tmp_path, BackendOptions(adapter="x"))


def test_a_folder_is_ranked_without_a_method(folder: Path, paths: list[str]) -> None:
    documents: list[Any] = [{"image": paths[0]}, "foxes live in dens", {"image": paths[1], "text": "a red fox"}]
    with Reranker.from_pretrained(str(folder), dtype="float32", device="cpu") as reranker:
        hits = reranker.rank(QUERY, documents)
    assert reranker.name == "head-images"
    assert sorted(hit.corpus_id for hit in hits) == [0, 1, 2]
    assert hits.report.has_absolute_scores

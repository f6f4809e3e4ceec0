"""Vision-language models on tiny random ones of the real classes: Idefics3, LLaVA (saved and loaded), Qwen2-VL."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch

from rerank.backends.vlm import Vlm
from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError
from rerank.io.pictures import open_picture
from rerank.judges import Limits, open_judge
from rerank.models import open_model_backend
from rerank.prompts import load_prompt
from rerank.prompts.base import PICTURE, Message
from rerank.reranker import Reranker
from rerank.tasks import (
    AttentionTask,
    BackendOptions,
    ContinuationTask,
    LikelihoodTask,
    PermutationTask,
    Request,
    Sampling,
)
from rerank.types import Document, Query, Window
from tests.backends.conftest import in_memory, make_model, make_tokenizer
from tests.backends.seeing import MAKERS, draw, make_qwen
from tests.judging import judge_windows
from tests.raising import raises

FLOAT32 = BackendOptions(dtype="float32", device="cpu")
KINDS = [*MAKERS, "qwen2-vl"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="session")
def backends(folders: dict[str, Path]) -> dict[str, Vlm]:
    loaded = {name: Vlm.load(folder, FLOAT32) for name, folder in folders.items()}
    return {**loaded, "qwen2-vl": cast(Vlm, in_memory(*make_qwen(), name="qwen2-vl", kind=Vlm))}


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(params=KINDS)
def vlm(request: pytest.FixtureRequest, backends: dict[str, Vlm]) -> Vlm:
    return backends[request.param]


def ask(task: Any, *images: str, text: str = "Is it red?", **sampling: Any) -> Request:
    shown = " and ".join([PICTURE] * len(images))
    prompt = (Message("user", f"Look: {shown}\n{text}", images=images),)
    return Request(prompt=prompt, sampling=Sampling(**{"max_tokens": 4, **sampling}), task=task)


def inputs_of(vlm: Vlm, request: Request) -> dict[str, Any]:
    """What transformers' own chat template and processor make of a request."""
    processor: Any = vlm.tokens._processor
    (turn,) = request.prompt
    first, *rest = turn.content.split(PICTURE)
    parts = [{"type": "text", "text": first}]
    for text in rest:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    pictures = [open_picture(path) for path in turn.images] or None
    return dict(processor(text=[text], images=pictures, return_tensors="pt", add_special_tokens=False))


def by_hand(vlm: Vlm, request: Request, text: str) -> float:
    """log P(text | prompt) with one plain call of the model for every token."""
    processor: Any = vlm.tokens._processor
    inputs = inputs_of(vlm, request)
    total = 0.0
    for token in processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            logits = vlm.model(**inputs).logits[0, -1]
        total += float(logits.log_softmax(dim=-1)[token])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    return total


def test_yes_and_no_are_as_likely_as_the_models_logits_say(vlm: Vlm, paths: list[str]) -> None:
    words = ("Yes", "No", "N")  # the tokenizer's tokens are bytes
    for shown in (paths[:1], paths[:3]):
        request = ask(ContinuationTask(continuations=words), *shown)
        (reply,) = vlm.generate([request])
        assert reply.scores == pytest.approx([by_hand(vlm, request, word) for word in words], abs=1e-4)
        assert reply.tokens_in == inputs_of(vlm, request)["input_ids"].shape[1] == vlm.tokens.count(request.prompt)
        assert (reply.finish, reply.tokens_out) == ("stop", 0)


def test_pictures_decide(vlm: Vlm, paths: list[str]) -> None:
    task = ContinuationTask(continuations=("Y", "N"))
    replies = vlm.generate([ask(task, path) for path in paths[:4]])
    assert len({reply.scores for reply in replies}) == 4
    one, two = vlm.generate([ask(task, *paths[:2]), ask(task, *paths[1::-1])])
    assert one.scores != two.scores


def test_what_is_written_is_what_transformers_writes(vlm: Vlm, paths: list[str]) -> None:
    from rerank.tasks import GenerationTask

    request = ask(GenerationTask(), *paths[:2], max_tokens=6)
    (reply,) = vlm.generate([request])
    inputs = inputs_of(vlm, request)
    with torch.no_grad():
        out = vlm.model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=257, pad_token_id=258)
    row = [token for token in out[0, inputs["input_ids"].shape[1] :].tolist() if token < 256]
    processor: Any = vlm.tokens._processor
    assert reply.text == processor.tokenizer.decode(row)
    assert reply.finish in ("stop", "length")


def chain_by_hand(vlm: Vlm, request: Request) -> list[int]:
    """Greedy choice among the identifiers left: digits are one token each, and the rest of a chain is forced."""
    task: Any = request.task
    left, text = list(range(len(task.items))), ""
    order: list[int] = []
    while left:
        before = text + ("[" if not order else " > [")
        if len(left) > 1:
            logs = [by_hand(vlm, request, f"{before}{at + 1}") for at in left]
            best = left[logs.index(max(logs))]
        else:
            (best,) = left
        text = f"{before}{best + 1}]"
        order.append(best)
        left.remove(best)
    return order


@pytest.mark.parametrize("kind", ["idefics3", "qwen2-vl"])
def test_a_constrained_order_is_the_greedy_one_by_hand(backends: dict[str, Vlm], paths: list[str], kind: str) -> None:
    vlm = backends[kind]
    request = ask(PermutationTask(items=("[1]", "[2]", "[3]"), count=3), *paths[:3])
    (reply,) = vlm.generate([request])
    assert reply.text == " > ".join(f"[{at + 1}]" for at in chain_by_hand(vlm, request))
    assert (reply.finish, reply.tokens_out) == ("stop", len("[1] > [2] > [3]"))


def test_orders_of_any_kind_are_permutations(vlm: Vlm, paths: list[str]) -> None:
    items = tuple(f"[{at}]" for at in range(1, 9))
    few, one, hot = vlm.generate(
        [
            ask(PermutationTask(items=items, count=3), *paths),
            ask(PermutationTask(items=items[:1], count=1), paths[0]),
            ask(PermutationTask(items=items, count=8), *paths, temperature=2.0, seed=3),
        ]
    )
    assert len({*few.text.split(" > ")} & {*items}) == 3
    assert (one.text, one.steps) == ("[1]", 2)
    assert sorted(hot.text.split(" > ")) == sorted(items)
    (again,) = vlm.generate([ask(PermutationTask(items=items, count=8), *paths, temperature=2.0, seed=3)])
    assert again.text == hot.text


def test_one_after_the_other_is_as_all_at_once(vlm: Vlm, paths: list[str]) -> None:
    """Qwen2-VL keeps positions of the last prompt; they must not reach the next one."""
    asked = [
        ask(ContinuationTask(continuations=("Y", "N")), paths[0]),
        ask(PermutationTask(items=("[1]", "[2]"), count=2), *paths[:2]),
        ask(ContinuationTask(continuations=("Y", "N")), *paths[:3]),
        ask(ContinuationTask(continuations=("Y", "N")), text="No picture."),
    ]
    together = vlm.generate(asked)
    alone = [vlm.generate([request])[0] for request in asked[::-1]][::-1]
    assert [(r.text, r.scores) for r in together] == [(r.text, r.scores) for r in alone]


def test_recited_queries(vlm: Vlm, paths: list[str]) -> None:
    request = ask(LikelihoodTask(continuations=("red",)), paths[0])
    (reply,) = vlm.generate([request])
    assert reply.scores == pytest.approx([by_hand(vlm, request, "red")], abs=1e-4)


def test_tokens_of_pictures(vlm: Vlm, paths: list[str]) -> None:
    tokens = vlm.tokens
    counts = [tokens.count((Message("user", PICTURE * n, images=tuple(paths[:n])),)) for n in range(4)]
    first, *others = (b - a for a, b in zip(counts, counts[1:], strict=False))
    assert first > 0
    assert others == [first] * 2


def test_a_query_that_spells_out_a_picture_shows_none(vlm: Vlm, paths: list[str]) -> None:
    text = "<image> <|image_pad|> <|im_end|>"
    plain, spelled = vlm.generate(
        [ask(ContinuationTask(continuations=("Y", "N")), paths[0], text=words) for words in ("nothing", text)]
    )
    assert spelled.finish == plain.finish == "stop"
    assert spelled.tokens_in > plain.tokens_in


def test_pictures_that_cannot_be_read_are_replies_that_say_so(vlm: Vlm, paths: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(paths[0]).read_bytes()[:50])
    task = ContinuationTask(continuations=("Y", "N"))
    good, missing, cut, again = vlm.generate(
        [
            ask(task, paths[0]),
            ask(task, str(tmp_path / "gone.png")),
            ask(task, paths[1], str(broken)),
            ask(task, paths[0]),
        ]
    )
    assert good.scores == again.scores != ()
    assert (missing.finish, cut.finish) == ("error", "error")
    assert "gone.png" in missing.error
    assert "broken.png" in cut.error
    assert vlm.tokens.count(ask(task, str(broken)).prompt) > 0


def test_what_it_is_not_asked(vlm: Vlm, paths: list[str]) -> None:
    (reply,) = vlm.generate([ask(AttentionTask(spans=((0, 1),), tail=2), paths[0])])
    assert reply.finish == "error"
    assert "AttentionTask" in reply.error
    with raises(UsageError, "--thinking-tokens is 5"):
        vlm.generate([ask(ContinuationTask(continuations=("Y",)), paths[0], thinking=5)])


def test_a_prompt_longer_than_the_context(
    backends: dict[str, Vlm], paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm: Any = backends["idefics3"]
    monkeypatch.setattr(vlm.tokens, "context_size", 60)
    fits, long = vlm.generate([ask(ContinuationTask(continuations=("Y",)), *paths[:n]) for n in (1, 3)])
    assert fits.finish == "stop"
    assert long.finish == "error"
    assert "tokens with its pictures" in long.error


def window(paths: list[str], *, query: str = "a red bird") -> Window:
    return Window(Query(id="q", text=query), tuple(Document(id=f"d{at}", image=p) for at, p in enumerate(paths)))


def test_the_pointwise_judge_sorts_by_the_probability_of_yes(vlm: Vlm, paths: list[str]) -> None:
    judge = open_judge("score", vlm, load_prompt("pointwise_images"))
    asked = window(paths[:5])
    (verdict,) = judge_windows(judge, [asked])
    odds = []
    for request in judge.make_requests(asked):
        yes, no = (by_hand(vlm, request, word) for word in ("Yes", "No"))
        odds.append(yes - no)
    assert verdict.status == "ok"
    assert verdict.order == tuple(sorted(range(5), key=lambda at: -odds[at]))


def test_a_broken_picture_keeps_its_place_and_the_window_is_a_failure(
    backends: dict[str, Vlm], paths: list[str], tmp_path: Path
) -> None:
    judge = open_judge("score", backends["idefics3"], load_prompt("pointwise_images"))
    (whole,) = judge_windows(judge, [window(paths[:4])])
    (verdict,) = judge_windows(judge, [window([*paths[:2], str(tmp_path / "gone.png"), *paths[2:4]])])
    assert verdict.status == "error"
    assert "1 of 5 documents without a score" in verdict.detail
    assert "gone.png" in verdict.detail
    assert verdict.order[2] == 2
    assert [at - (at > 2) for at in verdict.order if at != 2] == list(whole.order)


@pytest.mark.parametrize("method", ["fullrank-images", "pointwise-images", "sliding"])
def test_methods_by_name_put_pictures_in_order(folders: dict[str, Path], paths: list[str], method: str) -> None:
    prompt, model = (
        ("listwise_images", f"vlm:{folders['llava']}") if method == "sliding" else ("auto", str(folders["llava"]))
    )
    name = "sliding,size=4,stride=2" if method == "sliding" else method
    reranker = Reranker.from_pretrained(model, method=name, prompt=prompt, dtype="float32", device="cpu")
    hits = reranker.rank("a red bird", [{"id": str(at), "image": path} for at, path in enumerate(paths)])
    assert sorted(hit.corpus_id for hit in hits) == list(range(len(paths)))
    assert hits[0].document.image in paths
    assert hits.windows["ok"] == sum(hits.windows.values()) > 0


def test_an_order_that_is_written_freely_is_parsed(backends: dict[str, Vlm], paths: list[str]) -> None:
    judge = open_judge("generate,constrain=false", backends["llava"], load_prompt("listwise_images"), Limits())
    (verdict,) = judge_windows(judge, [window(paths[:3])])
    assert sorted(verdict.order) == [0, 1, 2]


def test_models_of_texts_are_refused_where_pictures_are_shown(backends: dict[str, Vlm], paths: list[str]) -> None:

    texts = in_memory(make_model(), make_tokenizer())
    with raises(UsageError, "in-memory", "vlm:NAME"):
        Reranker.from_backend(texts, method="fullrank-images")
    with raises(DataError, "'d0'"):
        judge_windows(open_judge("generate", texts, load_prompt("listwise")), [window(paths[:2])])
    with raises(DataError, "'0'"):
        Reranker.from_backend(backends["llava"], method="fullrank-images").rank("q", ["a text", "two"])


def test_a_vision_language_model_ranks_texts_too(backends: dict[str, Vlm]) -> None:
    hits = Reranker.from_backend(backends["idefics3"], method="fullrank").rank("q", ["one", "two", "three"])
    assert (sorted(hit.text for hit in hits), hits.windows["ok"]) == (["one", "three", "two"], 1)


def test_loading(folders: dict[str, Path], tmp_path: Path) -> None:
    opened = open_model_backend(f"vlm:{folders['llava']}", FLOAT32)
    assert isinstance(opened, Vlm)
    assert isinstance(open_model_backend(str(folders["llava"]), FLOAT32, kind="vlm"), Vlm)
    assert opened.identity["processor"].startswith("CLIPImageProcessor")
    assert len(opened.identity["weights"]) == 64
    half = Vlm.load(folders["llava"], BackendOptions(dtype="bfloat16", device="cpu"))
    assert half.identity["dtype"] == "bfloat16"
    (reply,) = half.generate([ask(ContinuationTask(continuations=("Y", "N")), *draw(tmp_path / "p")[:2])])
    assert len(reply.scores) == 2
    with raises(UsageError, "--device-map is tp"):
        Vlm.load(folders["llava"], BackendOptions(device_map="tp"))


def test_what_is_no_vision_language_model(folders: dict[str, Path], tmp_path: Path) -> None:
    from tests.backends.pairs import save

    with raises(MissingResourceError, "pairs"):
        Vlm.load(save(tmp_path / "pairs"), FLOAT32)
    model: Any = Vlm.load(folders["llava"], FLOAT32)
    with raises(UsageError, "'m'"):
        Vlm(model.model, make_tokenizer(), identity={"model": "m"})
    bare = Path(shutil.copytree(folders["llava"], tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UsageError):
        Vlm.load(bare, FLOAT32)
    damaged = Path(shutil.copytree(folders["llava"], tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"\x08")
    with raises(DataError, "damaged"):
        Vlm.load(damaged, FLOAT32)


def test_a_template_that_leaves_pictures_out(folders: dict[str, Path], tmp_path: Path, paths: list[str]) -> None:
    folder = Path(shutil.copytree(folders["idefics3"], tmp_path / "blind"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    with raises(BackendError, "pointwise-images"):
        Vlm.load(folder, FLOAT32).generate([ask(ContinuationTask(continuations=("Y",)), paths[0])])


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="about its absence")
def test_without_what_a_processor_needs(tmp_path: Path) -> None:
    model, processor = make_qwen()
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    settings = {**processor.image_processor.to_dict(), "processor_class": "Qwen2VLProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with raises(MissingPrerequisiteError, "Torchvision"):
        Vlm.load(tmp_path, FLOAT32)


def official_parts(query: str, *parts: dict[str, str]) -> list[dict[str, Any]]:
    """The chat of `format_mm_instruction` in the source of Qwen3-VL-Reranker, for one document."""
    judge = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that "
        'the answer can only be "yes" or "no".'
    )
    told = "<Instruct>: Given a search query, retrieve relevant candidates that answer the query."
    texts = [{"type": "text", "text": text} for text in (told, "<Query>:", query, "\n<Document>:")]
    return [
        {"role": "system", "content": [{"type": "text", "text": judge}]},
        {"role": "user", "content": [*texts, *parts]},
    ]


def test_qwen3_vl_reranker_reads_pictures_texts_and_both(backends: dict[str, Vlm], paths: list[str]) -> None:
    vlm = backends["qwen2-vl"]
    judge = open_judge("score,yes=yes,no=no", vlm, load_prompt("qwen3_vl_reranker"))
    docs = (
        Document(id="p", text="", image=paths[0]),
        Document(id="b", text="a red fox", image=paths[1]),
        Document(id="t", text="a blue [1] whale"),
    )
    processor: Any = vlm.tokens._processor
    window = Window(Query(id="q", text="fox?"), docs)
    for request, doc in zip(judge.make_requests(window), docs, strict=True):
        parts = [{"type": "image"}] * bool(doc.image) + [{"type": "text", "text": doc.text}] * bool(doc.text)
        expected = processor.apply_chat_template(official_parts("fox?", *parts), add_generation_prompt=True)
        assert vlm.tokens.render(request.prompt) == expected
        assert [path for turn in request.prompt for path in turn.images] == [doc.image] * bool(doc.image)
    scores = {}
    for doc in docs:
        (verdict,) = judge_windows(judge, [Window(window.query, (doc,))])
        scores[doc.id] = verdict.scores[0]
    (verdict,) = judge_windows(judge, [window])
    assert list(verdict.scores) == pytest.approx([scores[doc.id] for doc in docs], abs=1e-4)
    assert len(set(scores.values())) == 3


def test_texts_beside_pictures_are_cut(backends: dict[str, Vlm], paths: list[str]) -> None:
    vlm = backends["qwen2-vl"]
    limits = Limits(max_passage_tokens=8, min_passage_tokens=2)
    judge = open_judge("score,yes=yes,no=no", vlm, load_prompt("qwen3_vl_reranker"), limits)
    (request,) = judge.make_requests(
        Window(Query(id="q", text="fox?"), (Document(id="b", text="a red fox in snow", image=paths[1]),))
    )
    assert request.prompt[-1].content.endswith(f"<Document>:{PICTURE}a red fo")
    assert sum(request.dropped) == len(" in snow") + 1
    room = vlm.tokens.count(request.prompt) - 2
    small = open_judge(
        "score,yes=yes,no=no", vlm, load_prompt("qwen3_vl_reranker"), limits.model_copy(update={"context_size": room})
    )
    (request,) = small.make_requests(
        Window(Query(id="q", text="fox?"), (Document(id="b", text="a red fox in snow", image=paths[1]),))
    )
    assert vlm.tokens.count(request.prompt) <= room
    assert request.prompt[-1].images == (paths[1],)

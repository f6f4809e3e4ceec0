"""What every component must show, whatever its framework."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank import Qrels, Reranker
from rerank.backends.fake import Fake
from rerank.calibration import fit_calibration
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.strategies import open_strategy
from rerank.tasks import Reply
from tests.calibration.synthetic import make_collection
from tests.integrations.components import ASYNC, FORMS, ComponentForm, Passage
from tests.judges.scripted import Scripted, always
from tests.raising import raises
from tests.test_docs import Block, blocks, run_block, text_of

MODEL = "fake:stutter"  # an order that depends on the texts and on the query
SETTINGS = {"method": "sliding,size=4,stride=2", "seed": 3}


def parameters(names: Sequence[str]) -> list[Any]:
    """The components by name; only the one without a framework is tested by default."""
    marks = {name: () if name == "cross_encoder" else pytest.mark.integrations for name in names}
    return [pytest.param(FORMS[name], id=name, marks=marks[name]) for name in names]


every_component = pytest.mark.parametrize("form", parameters(list(FORMS)))
every_async_component = pytest.mark.parametrize("form", parameters(ASYNC))


def passages_of(texts: Sequence[str]) -> list[Passage]:
    return [Passage(text, {"number": number, "nested": {"source": "s"}}) for number, text in enumerate(texts)]


def expected(reranker: Reranker, query: str, passages: Sequence[Passage], **options: Any) -> list[Passage]:
    """What the library returns, with the relevance scores of the server."""
    hits = reranker.rank(query, [passage.text for passage in passages], **options)
    return [replace(passages[hit.corpus_id], score=hit.unit_score) for hit in hits]


@pytest.fixture(scope="module")
def library() -> Reranker:
    return Reranker.from_pretrained(MODEL, **SETTINGS)


@pytest.fixture(scope="module")
def calibrated() -> Reranker:
    result = fit_calibration([make_collection(queries=20, depth=10)], ranker={}, first_stage="bm25")
    backend = Fake("perfect", qrels=Qrels({"0": {str(number): number % 4 for number in range(20)}}))
    return replace(Reranker.from_backend(backend, method="full:score"), calibration=result.calibration)


@every_component
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=12), st.none() | st.integers(0, 5)
)
def test_order_and_scores_are_those_of_the_library(
    library: Reranker, form: ComponentForm, texts: list[str], top_n: int | None
) -> None:
    """Without ``top_n``, nothing is lost; texts repeat, and their metadata tell them apart."""
    passages = passages_of(texts)
    found = form.rank(form.build(reranker=library, top_n=top_n), "query", passages)
    assert found == expected(library, "query", passages, top_k=top_n)
    scores = [passage.score or 0.0 for passage in found]
    assert all(0 < score <= 1 for score in scores)
    assert scores == sorted(set(scores), reverse=True)


@every_component
def test_settings_open_the_same_reranker(library: Reranker, form: ComponentForm) -> None:
    passages = passages_of(["a", "b", "a", "c", "", "d"])
    component = form.build(model=MODEL, settings=SETTINGS)
    assert form.rank(component, "q", passages) == expected(library, "q", passages)


@every_component
def test_the_given_documents_are_not_changed(library: Reranker, form: ComponentForm) -> None:
    passages = passages_of(["a", "b", "c"])
    before = copy.deepcopy(passages)
    form.rank(form.build(reranker=library), "q", passages)
    assert passages == before


@every_component
def test_empty_input_opens_no_model(form: ComponentForm, tmp_path: Path) -> None:
    assert form.rank(form.build(model=str(tmp_path / "no-model")), "q", []) == []


@every_component
def test_calibrated_scores_and_a_threshold(calibrated: Reranker, form: ComponentForm) -> None:
    passages = passages_of([f"text {number}" for number in range(20)])
    everything = form.rank(form.build(reranker=calibrated), "q", passages)
    assert everything == expected(calibrated, "q", passages)
    threshold = everything[0].score or 0.0
    found = form.rank(form.build(reranker=calibrated, threshold=threshold), "q", passages)
    assert found == expected(calibrated, "q", passages, threshold=threshold)
    assert 0 < len(found) < len(passages)


@every_component
def test_the_score_of_a_pointwise_method_is_one_number_everywhere(form: ComponentForm) -> None:
    """Without a calibration, a threshold cuts the numbers that the server sends."""
    backend = Fake("perfect", qrels=Qrels({"0": {str(number): number % 2 for number in range(6)}}))
    reranker = Reranker.from_backend(backend, method="full:score")
    passages = passages_of([f"text {number}" for number in range(6)])
    everything = form.rank(form.build(reranker=reranker), "q", passages)
    assert everything == expected(reranker, "q", passages)
    found = form.rank(form.build(reranker=reranker, threshold=0.6), "q", passages)
    assert found == expected(reranker, "q", passages, threshold=0.6)
    assert len(found) == sum((passage.score or 0.0) >= 0.6 for passage in everything) < len(passages)


@every_component
def test_a_threshold_needs_a_calibration(library: Reranker, form: ComponentForm) -> None:
    with pytest.raises(UsageError, match="has no calibration"):
        form.rank(form.build(reranker=library, threshold=0.5), "q", passages_of(["a"]))


@every_component
def test_settings_are_checked_before_the_model_is_loaded(library: Reranker, form: ComponentForm) -> None:
    with pytest.raises(UnknownNameError, match="'metod'"):
        form.build(model=MODEL, settings={"metod": "sliding"})
    with pytest.raises(UsageError, match="top_k is -1"):
        form.build(model=MODEL, top_n=-1)
    with pytest.raises(UsageError, match="either an open reranker"):
        form.build(model=MODEL, reranker=library)
    with pytest.raises(UsageError, match="The reranker is a str"):
        form.build(reranker="fake:reversed")


CHOOSING = ("langchain", "llama_index", "haystack", "cross_encoder")
CHOICES: list[tuple[dict[str, dict[str, Any]], list[int]]] = [
    ({"unique": {}}, [3, 2, 1]),
    ({"diverse": {"k": 2, "weight": 0.1}}, [3, 1]),
    ({"fit": {"tokens": 6}}, [3, 1]),
    ({"unique": {}, "top_k": {"k": 2}}, [3, 2]),
]


@pytest.mark.parametrize("form", parameters(CHOOSING))
@pytest.mark.parametrize(("choose", "expected_numbers"), CHOICES)
def test_components_choose_among_the_ranked_documents(
    form: ComponentForm, choose: dict[str, dict[str, Any]], expected_numbers: list[int], tmp_path: Path
) -> None:
    texts = ["dogs have fleas which live long", "two bakeries", "fleas bite dogs and cats often", "dogs have fleas"]
    passages = passages_of([texts[2], texts[1], texts[2], texts[3]])
    component = form.build(model="fake:reversed", settings={}, choose=choose)
    found = form.rank(component, "q", passages)
    assert [passage.metadata["number"] for passage in found] == expected_numbers
    whole = {p.metadata["number"]: p.score for p in form.rank(form.build(model="fake:reversed"), "q", passages)}
    assert [passage.score for passage in found] == [whole[number] for number in expected_numbers]
    assert form.rank(form.store(component, tmp_path), "q", passages) == found


@pytest.mark.parametrize("form", parameters(CHOOSING))
def test_a_component_returns_the_set_that_the_model_selects(form: ComponentForm) -> None:
    judge = open_judge("select", Scripted(always(Reply(text="Selection: [3] > [1]"))), load_prompt("select"))
    reranker = Reranker(strategy=open_strategy("full"), judge=judge)
    component = form.build(reranker=reranker, choose={"selected": {}})
    found = form.rank(component, "q", passages_of(["a", "b", "c", "d"]))
    assert [passage.text for passage in found] == ["c", "a"]


@pytest.mark.parametrize("form", parameters(CHOOSING))
@pytest.mark.parametrize(
    ("choose", "named"),
    [
        ({"diversify": {}}, "'diversify'"),
        ({"diverse": {"n": 3}}, "'n'"),
        ({"diverse": {"weight": 2}}, "weight is 2"),
        ({"fit": {}}, "'tokens'"),
        ({"fit": 500}, "500"),
        (["unique"], "choose is"),
    ],
)
def test_choices_are_checked_before_the_model_is_loaded(form: ComponentForm, choose: Any, named: str) -> None:
    with raises((UsageError, UnknownNameError), named):
        form.build(model=MODEL, choose=choose)


@pytest.mark.parametrize("form", parameters(("llama_index", "haystack")))
def test_embeddings_of_documents_are_used(form: ComponentForm) -> None:
    passages = [
        replace(p, embedding=e)
        for p, e in zip(passages_of(["a", "b", "c"]), ([1.0, 0.0], [1.0, 0.0], [0.0, 1.0]), strict=True)
    ]
    component = form.build(model="fake:reversed", choose={"diverse": {"k": 2, "weight": 0.1}})
    assert [passage.text for passage in form.rank(component, "q", passages[::-1])] == ["a", "c"]


@every_component
def test_a_component_is_stored_as_its_settings(form: ComponentForm, tmp_path: Path) -> None:
    passages = passages_of([f"text {number}" for number in range(9)])
    component = form.build(model=MODEL, settings=SETTINGS, top_n=4)
    before = form.rank(component, "q", passages)
    assert len(before) == 4
    assert form.rank(form.store(component, tmp_path), "q", passages) == before


@every_component
def test_a_component_with_an_open_reranker_is_pickled_but_not_stored(
    library: Reranker, form: ComponentForm, tmp_path: Path
) -> None:
    passages = passages_of(["a", "b", "c", "d", "e"])
    component = form.build(reranker=library, top_n=3)
    if form.module != "dspy":
        again = pickle.loads(pickle.dumps(component))
        assert form.rank(again, "q", passages) == form.rank(component, "q", passages)
    if form.module not in ("dspy", "pyterrier"):  # which store programs and transformers as pickles
        with pytest.raises(Exception, match="cannot be stored as settings"):
            form.store(component, tmp_path)


@every_component
def test_copies_share_the_open_reranker(form: ComponentForm, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str | None] = []
    original = Reranker.from_pretrained

    def count(model: str | None = None, **settings: Any) -> Reranker:
        opened.append(model)
        return original(model, **settings)

    monkeypatch.setattr(Reranker, "from_pretrained", count)
    component = form.build(model=MODEL)
    for each in (component, copy.deepcopy(component), copy.copy(component)):
        form.rank(each, "q", passages_of(["a", "b"]))
    assert opened == [MODEL]


@every_async_component
def test_async_returns_the_same(library: Reranker, form: ComponentForm) -> None:
    component = form.build(reranker=library, top_n=5)
    for count in (0, 1, 9):
        passages = passages_of([f"text {number}" for number in range(count)])
        assert asyncio.run(form.arank(component, "q", passages)) == form.rank(component, "q", passages)


@every_async_component
def test_async_calls_run_at_the_same_time(form: ComponentForm) -> None:
    passages = passages_of(["a", "b", "c"])
    component = form.build(model="fake-server:reversed,delay=0.5", settings={"concurrency": 8})

    async def rank_many() -> list[list[Passage]]:
        return await asyncio.gather(*(form.arank(component, f"query {n}", passages) for n in range(8)))

    started = time.perf_counter()
    found = asyncio.run(rank_many())
    assert time.perf_counter() - started < 2.0  # one after the other, they take 4 s
    assert [[passage.text for passage in ranked] for ranked in found] == [["c", "b", "a"]] * 8


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("pyterrier", "pyterrier", "pyterrier"),
        ("dspy", "dspy", "dspy"),
    ],
)
def test_the_error_names_the_extra(module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"rerank.integrations.{module}", raising=False)
    for name in [*sys.modules, package]:
        if name.split(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPrerequisiteError, match=rf"pip install .*\[{extra}\]'") as caught:
        import_module(f"rerank.integrations.{module}")
    assert package in str(caught.value)


RECIPES = [block for block in blocks(text_of("docs/integrations.md")) if block.kind == "python"]


@pytest.mark.integrations
@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_the_recipe_runs(recipe: Block) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    run_block(Block(recipe.kind, recipe.body, recipe.title, not_run=False), names)
    assert len(recipe.body.strip().splitlines()) <= 8


def test_every_framework_has_a_recipe() -> None:
    assert len(RECIPES) == 6

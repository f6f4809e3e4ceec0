from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rerank.collections import open_collection
from rerank.errors import DataError, MissingResourceError, RerankError, UnknownNameError, UsageError
from rerank.experiment.candidates import lowest_relevant_grade
from rerank.experiment.spec import RunSpec
from rerank.io.run_files import read_qrels
from rerank.leaderboard.suites.suite import Suite, read_suite
from tests.raising import raises

SUITES = Path(__file__).resolve().parents[2] / "eval" / "suites"
NUMBER = re.compile(r"(\d[\d,]*) (?:judged )?(?:queries|topics|questions)")
LEAST: dict[str, Any] = {"name": "mine", "collections": ["pydoc"], "models": ["fake:perfect"]}


def made(**values: Any) -> Suite:
    return Suite.make({**LEAST, **values})


def test_the_least_is_one_run_with_a_specifications_defaults() -> None:
    (run,) = made().expand()
    assert run.spec == RunSpec(collection="pydoc", model="fake:perfect")
    assert str(run) == "pydoc, bm25, depth 100: fullrank fake:perfect, seed 0"


def test_the_product_of_all_keys() -> None:
    suite = made(
        collections=[
            {"collection": "pydoc", "max-queries": 3},
            {"name": "b", "collection": "irds:vaswani", "depths": [7], "first-stages": ["lucene"], "measures": ["AP"]},
        ],
        first_stages=["bm25", "bm25,k1=2"],
        depths=[10, 20],
        methods=["fullrank", "sliding,size=4,stride=2"],
        models=["fake:perfect", "openai:m"],
        seeds=[0, 1, 2],
        shuffle="random",
        options={"max_passage_tokens": 40},
    )
    runs = suite.expand()
    assert len(runs) == len(set(runs)) == (2 * 2 + 1) * 2 * 2 * 3
    specs = [run.spec for run in runs]
    assert len(set(specs)) == len(specs)
    assert {s.max_passage_tokens for s in specs} == {40}
    assert {(s.first_stage, s.depth, s.measures, s.max_queries) for s in specs if s.collection == "irds:vaswani"} == {
        ("lucene", 7, ("AP",), None)
    }
    assert {s.max_queries for s in specs if s.collection == "pydoc"} == {3}
    models = [spec.model for spec in specs]
    assert models == sorted(models, key=["fake:perfect", "openai:m"].index), "a model's runs do not stand together"


def test_adapters_and_rerankers_are_runs_of_their_own() -> None:
    suite = made(
        models=[],
        adapters=["some/adapter"],
        rerankers=[
            {"name": "short", "method": "sliding", "model": "fake:perfect", "max_passage_tokens": 9},
            {"method": "icr", "model": "a/b"},
            {"adapter": "x/y"},
        ],
        options={"max_passage_tokens": 40},
    )
    assert list(suite.systems()) == ["adapter", "short", "icr b", "y"]
    first, second, third, fourth = (run.spec for run in suite.expand())
    # What an adapter was trained with is read from its folder where the specification says nothing.
    assert first.model_fields_set & {"model", "method", "max_passage_tokens"} == set()
    assert (first.adapter, fourth.adapter) == ("some/adapter", "x/y")
    assert (second.method, second.max_passage_tokens) == ("sliding", 9)
    assert (third.method, third.model, third.max_passage_tokens) == ("icr", "a/b", None)


def test_other_models_take_the_place_of_all_rerankers() -> None:
    suite = made(adapters=["some/adapter"], rerankers=[{"model": "a/b"}], methods=["sliding"])
    assert list(suite.with_models(["fake:talk"]).systems()) == ["sliding fake:talk"]
    only_adapters = made(models=[], methods=[], adapters=["some/adapter"])
    assert list(only_adapters.with_models(["fake:talk"]).systems()) == ["fullrank fake:talk"]


WRONG: list[tuple[dict[str, Any], type[RerankError], tuple[str, ...]]] = [
    ({"modles": ["m"]}, UnknownNameError, ("'modles'", "'models'")),
    ({"collections": [{"colection": "x"}]}, UnknownNameError, ("'colection'", "'collection'")),
    ({"options": {"temprature": 1}}, UnknownNameError, ("[options]", "'temprature'", "'temperature'")),
    ({"options": {"model": "m"}}, UnknownNameError, ("[options]", "'model'")),
    ({"options": {"depth": 5}}, UnknownNameError, ("[options]", "'depth'")),
    ({"rerankers": [{"modell": "x"}]}, UnknownNameError, ("'modell'", "'model'")),
    ({"methods": ["slidng"]}, UnknownNameError, ("'slidng'", "'sliding'")),
    ({"models": []}, UsageError, ("models", "adapters", "rerankers")),
    ({"methods": []}, UsageError, ("models", "methods")),
    ({"models": ["m", "m"]}, UsageError, ("models", "'m' 2 times")),
    ({"seeds": [1, 1]}, UsageError, ("seeds", "1 2 times")),
    ({"models": ["a/m", "b/m"]}, UsageError, ("'mine'", "'fullrank m'")),
    ({"collections": ["pydoc", {"collection": "pydoc"}]}, UsageError, ("'pydoc' 2 times", "name")),
    ({"collections": []}, UsageError, ("collections",)),
    ({"collections": "pydoc"}, UsageError, ("collections = 'pydoc'",)),
    ({"collections": [{"name": "x"}]}, UsageError, ("collections.0.collection",)),
    ({"depths": [0]}, UsageError, ("depths", "0", "at least 1")),
    ({"depths": ["deep"]}, UsageError, ("depths.0 = 'deep'",)),
    ({"shuffle": "some"}, UsageError, ("shuffle = 'some'",)),
    ({"name": "a/b"}, UsageError, ("name = 'a/b'",)),
    ({"options": {"temperature": "hot"}}, UsageError, ("--temperature is 'hot'",)),
    ({"alpha": 2}, UsageError, ("alpha = 2",)),
]


@pytest.mark.parametrize(("values", "kind", "named"), WRONG, ids=[" ".join(named) for *_, named in WRONG])
def test_what_makes_no_sense_is_refused(
    values: dict[str, Any], kind: type[RerankError], named: tuple[str, ...]
) -> None:
    with raises(kind, *named):
        made(**values)


def test_a_suite_without_a_name() -> None:
    with raises(UsageError, "name"):
        Suite.make({})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    with raises(MissingResourceError, path):
        read_suite(path)
    path.write_text("name = ", encoding="utf-8")
    with raises(DataError, path):
        read_suite(path)
    path.write_text('name = "x"\nmodels = ["m"]\ncollections = ["beir:{data}/scifact"]\n', encoding="utf-8")
    with raises(UsageError, "'beir:{data}/scifact'", "--data"):
        read_suite(path)
    assert read_suite(path, data="there").collections[0].collection == "beir:there/scifact"


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_suites_of_the_checkout_count_from_the_right_grade(path: Path) -> None:
    """2 for the passages of TREC Deep Learning, 1 for all others, whatever brings the judgments."""
    suite = read_suite(path, data="nowhere")
    assert suite.name == path.stem
    assert suite.about
    for group in suite.groups():
        table = group.table
        spec = RunSpec.make(group.values())
        known = table.collection.partition(":")[0] in ("irds", "pydoc")
        grade = spec.relevant or lowest_relevant_grade(spec, open_collection(table.collection if known else "pydoc"))
        assert grade == (2 if table.title.startswith("dl") else 1), table.title


def test_there_are_suites_for_the_tracks() -> None:
    named = " ".join(path.read_text(encoding="utf-8") for path in SUITES.glob("*.toml"))
    for year in range(2019, 2024):
        assert f"trec-dl-{year}" in named
    for part in ("trec-robust-2004", "trec7", "trec8", "cord19/trec-covid", "beir/scifact/test", "cranfield"):
        assert part in named


def test_the_suite_of_beir_says_what_it_lacks() -> None:
    text = (SUITES / "beir.toml").read_text(encoding="utf-8")
    page = (SUITES.parents[1] / "docs" / "benchmarks" / "trec.md").read_text(encoding="utf-8")
    sets = [table.collection for table in read_suite(SUITES / "beir.toml").collections if "beir/" in table.collection]
    head = text.partition("name =")[0]
    assert f"{len(sets)} of BEIR's 18" in head
    assert f"{len(sets)} of BEIR's 18 sets" in page
    for said in (head, page):
        for name in ("CQADupStack", "MS MARCO", "BioASQ", "Signal-1M", "TREC-NEWS", "no BEIR average"):
            assert name in said
            assert name.lower() not in text.partition("collections =")[2]


def test_judgments_by_a_selector_bring_their_grade(tmp_path: Path) -> None:
    file = tmp_path / "qrels.txt"
    file.write_text("q 0 d 1\n", encoding="utf-8")
    plain = open_collection("pydoc")
    assert lowest_relevant_grade(RunSpec(collection="pydoc"), plain) == 1
    deep = "irds:msmarco-passage/trec-dl-2019/judged"
    assert lowest_relevant_grade(RunSpec(collection="pydoc", qrels=deep), plain) == 2
    assert lowest_relevant_grade(RunSpec(collection="pydoc", qrels=deep, relevant=3), plain) == 3
    assert lowest_relevant_grade(RunSpec(collection=deep, qrels=str(file)), open_collection(deep)) == 2


def loaded_queries(collection: str, qrels: str | None) -> int:
    provider, _, name = collection.partition(":")
    if provider == "irds":
        import ir_datasets

        return int(ir_datasets.load(name).queries_metadata()["count"])
    if qrels:
        return len(read_qrels(qrels))
    return len(open_collection(collection).queries())


def suites_with_numbers() -> list[Any]:
    """Suites that state numbers of queries; those over files can be checked only with the files."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(SUITES.glob("*.toml"))}
    return [
        pytest.param(path, NUMBER.findall(text), marks=[pytest.mark.shared] if "{data}" in text else [], id=path.stem)
        for path, text in texts.items()
        if NUMBER.search(text)
    ]


@pytest.mark.parametrize(("path", "stated"), suites_with_numbers())
def test_numbers_of_queries_come_from_the_loaders(path: Path, stated: list[str]) -> None:
    data = SUITES.parents[2] / "shared" / "data"
    tables = read_suite(path, data=data).collections
    counts = [table.max_queries or loaded_queries(table.collection, table.qrels) for table in tables]
    for text in stated:  # of all collections, or of each
        assert int(text.replace(",", "")) in (sum(counts), *(counts[:1] if len({*counts}) == 1 else ()))


def test_these_suites_state_numbers() -> None:
    assert {param.id for param in suites_with_numbers()} == {"bright", "cranfield", "dl19", "nano-beir"}

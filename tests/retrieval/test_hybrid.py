"""Hybrid retrieval and the formulas of fusion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.collections.base import Corpus
from rerank.errors import DataError, MissingPrerequisiteError, RerankError, UnknownNameError, UsageError
from rerank.retrieval import first_stages, open_first_stage
from rerank.retrieval.base.stages import check_depth
from rerank.retrieval.hybrid import (
    FusionValues,
    Hybrid,
    HybridRetriever,
    min_max_fusion,
    parse_weights,
    reciprocal_rank_fusion,
    split_stages,
    weighted_fusion_sum,
    z_score_fusion,
)
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus

QUERY = Query(id="q", text="wing")


@dataclass
class Ready:
    """A retriever with one list a query, scores given; remembers how deep it was asked."""

    lists: Mapping[str, Mapping[str, float]]
    depths: list[int] = field(default_factory=list)

    def search(self, queries: list[Query], k: int) -> Run:
        self.depths.append(check_depth(k))
        found = [query for query in queries if query.id in self.lists]
        return Run(
            Ranking.from_scores(
                query, ((Document(id=d, text=f"text {d}"), s) for d, s in self.lists[query.id].items())
            ).top(k)
            for query in found
        )


def fused(*lists: Mapping[str, float], k: int = 100, **options: object) -> dict[str, float]:
    """The fused scores, best first, of one query's lists."""
    stages = "+".join(["bm25"] * len(lists))
    hybrid = Hybrid(stages, **options)  # type: ignore[arg-type]
    ranking = HybridRetriever(hybrid, tuple(Ready({"q": scores}) for scores in lists)).search([QUERY], k)["q"]  # type: ignore[misc]
    return dict(zip(ranking.doc_ids, ranking.scores, strict=True))


A = {"a": 10.0, "b": 6.0, "c": 2.0}
B = {"c": 0.9, "d": 0.8, "a": 0.1}


def test_reciprocal_rank_fusion_by_hand() -> None:
    expected = {"c": 1 / 63 + 1 / 61, "a": 1 / 61 + 1 / 63, "d": 1 / 62, "b": 1 / 62}
    found = fused(A, B)
    assert list(found) == ["c", "a", "d", "b"]  # equal sums: by id, descending
    assert found == pytest.approx(expected)
    assert fused(A, B, k=2, weights="2+1") == pytest.approx({"a": 2 / 61 + 1 / 63, "c": 2 / 63 + 1 / 61})
    assert fused(A, B, k=1, method="rrf") == pytest.approx({"c": 1 / 63 + 1 / 61})


def test_constant_of_reciprocal_ranks() -> None:
    hybrid = Hybrid("bm25+bm25", k=0)
    run = HybridRetriever(hybrid, (Ready({"q": A}), Ready({"q": {"b": 1.0}}))).search([QUERY], 9)  # type: ignore[arg-type]
    assert run["q"].doc_ids == ("b", "a", "c")
    assert run["q"].scores == pytest.approx((1 / 2 + 1, 1.0, 1 / 3))


def test_weighted_by_hand() -> None:
    found = fused(A, B, method="weighted", weights="0.25+0.75")
    assert found == pytest.approx({"c": 0.75, "d": 0.75 * 0.7 / 0.8, "a": 0.25, "b": 0.125})
    assert list(found) == ["c", "d", "a", "b"]
    assert fused(A, B, method="weighted") == pytest.approx({"c": 1.0, "a": 1.0, "d": 0.875, "b": 0.5})


def test_weighted_z_scores_by_hand() -> None:
    # first list: 1, 0, -1 in units of sqrt(2/3); second: mean 2, scores 4 and 0, so 1 and -1
    top = 1 / (2 / 3) ** 0.5
    found = fused({"a": 3.0, "b": 2.0, "c": 1.0}, {"c": 4.0, "d": 0.0}, method="weighted", normalize="z-score")
    assert found == pytest.approx({"a": top - 1, "c": 1 - top, "b": -1.0, "d": -top - 1})
    assert list(found) == ["a", "c", "b", "d"]


def test_depth_of_the_stages_does_not_depend_on_what_is_wanted() -> None:
    stages = (Ready({"q": A}), Ready({"q": B}))
    retriever = HybridRetriever(Hybrid("bm25+bm25", depth=5), stages)  # type: ignore[arg-type]
    for k in (1, 5, 7):
        retriever.search([QUERY], k)
    assert stages[0].depths == stages[1].depths == [5, 5, 7]
    assert Hybrid("bm25+bm25").depth == 1000


def test_a_stage_without_a_list_gives_nothing_and_queries_keep_their_order() -> None:
    stages = (Ready({"x": A, "e": {}}), Ready({"y": B, "x": B}))
    queries = [Query(id=query_id) for query_id in "yzxe"]
    run = HybridRetriever(Hybrid("bm25+bm25"), stages).search(queries, 2)  # type: ignore[arg-type]
    assert {query_id: ranking.doc_ids for query_id, ranking in run.items()} == {
        "y": ("c", "d"),
        "x": ("c", "a"),
        "e": (),
    }
    assert (list(run), run.name) == (["y", "x", "e"], "hybrid")
    with raises(UsageError, "0"):
        HybridRetriever(Hybrid("bm25+bm25"), stages).search(queries, 0)  # type: ignore[arg-type]


ids = st.text("abcdefgh", min_size=1, max_size=2)
lists = st.dictionaries(ids, st.integers(-9, 9).map(float), max_size=12)
OPTIONS: list[dict[str, object]] = [{}, {"method": "weighted"}, {"method": "weighted", "normalize": "z-score"}]


@given(lists, st.integers(2, 3), st.sampled_from(OPTIONS))
def test_a_stage_fused_with_itself_keeps_its_order(scores: dict[str, float], times: int, options: object) -> None:
    alone = Ready({"q": scores}).search([QUERY], 100)["q"].doc_ids
    assert isinstance(options, dict)
    assert tuple(fused(*[scores] * times, **options)) == alone


@given(st.lists(lists, min_size=2, max_size=3), st.sampled_from(OPTIONS))
def test_the_order_of_the_stages_changes_nothing(found: list[dict[str, float]], options: object) -> None:
    assert isinstance(options, dict)
    expected = list(fused(*found, **options).items())
    assert all(list(fused(*order, **options).items()) == expected for order in permutations(found))


@given(lists, lists, st.sampled_from(OPTIONS))
def test_every_document_of_every_list_once(first: dict[str, float], second: dict[str, float], options: object) -> None:
    assert isinstance(options, dict)
    assert set(fused(first, second, **options)) == {*first, *second}


def test_selector_with_options_of_the_stages(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus("wing and water", "water", "wing")
    file = tmp_path / "a+b(1),c.trec"
    file.write_text("q Q0 d2 1 5 tag\nq Q0 d1 2 4 tag\n")
    run = open_first_stage(f"hybrid:(bm25,k1=1.2,b=0)+(run:{file}),k=0,depth=9", corpus).search([QUERY], 3)
    # bm25 with b=0 does not look at lengths, so d1 and d3 tie and the larger id comes first
    assert run["q"].doc_ids == ("d3", "d2", "d1")
    assert run["q"].scores == (1.0, 1.0, 1.0)
    assert run["q"].docs[1].text == "water"


def test_split_stages() -> None:
    assert split_stages("bm25 + dense") == ["bm25", "dense"]
    assert split_stages("(bm25)+run:a(1).trec+( run:a+b )") == ["bm25", "run:a(1).trec", "run:a+b"]
    assert split_stages("run:a).trec+bm25") == ["run:a).trec", "bm25"]


def test_what_the_collection_drops_takes_no_rank_and_does_not_stretch_the_scores() -> None:
    class Bring:
        name, language, fingerprint, drop_self = "bring", "en", "0" * 64, True

        def docs(self) -> Iterator[Document]:
            return iter(())

        def candidates(self) -> Run:
            docs = [Document(id=doc_id) for doc_id in ("q", "a", "b")]
            return Run([Ranking(QUERY, tuple(docs), (100.0, 2.0, 1.0))])

    for selector, scores in [
        ("hybrid:candidates+candidates", (2 / 61, 2 / 62)),
        ("hybrid:candidates+candidates,method=weighted", (2.0, 0.0)),
    ]:
        ranking = open_first_stage(selector, Bring()).search([QUERY], 2)["q"]
        assert ranking.doc_ids == ("a", "b")
        assert ranking.scores == pytest.approx(scores)


@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        ("hybrid:bm25+bm52", UnknownNameError, "Unknown first stage 'bm52'.*Did you mean 'bm25'"),
        ("hybrid:bm25+(bm25,k2=1)", UnknownNameError, "Unknown option of 'bm25': 'k2'.*Did you mean .*'k1'"),
        ("hybrid:bm25+(bm25,b=7)", UsageError, "BM25 has b=7.0"),
        ("hybrid", UsageError, "hybrid:STAGES,method=.*,k=.*,normalize=.*,weights=.*,depth="),
        ("hybrid:bm25", UsageError, r"has 1 first stage\(s\).*two or more first stages joined by \+"),
        ("hybrid:bm25+", UsageError, r"has 2 first stage\(s\), of which 1 are empty"),
        ("hybrid:bm25+()", UsageError, "of which 1 are empty"),
        ("hybrid:bm25+(hybrid:bm25+candidates)", UsageError, "a hybrid in a hybrid.*one hybrid"),
        ("hybrid:bm25+bm25,weights=1", UsageError, "weights=1 for the 2 stages.*2 numbers of at least 0.*0.5[+]0.5"),
        ("hybrid:bm25+bm25,weights=1+-1", UsageError, r"weights=1\+-1"),
        ("hybrid:bm25+bm25,weights=0+0", UsageError, "not all 0"),
        ("hybrid:bm25+bm25,weights=1+nan", UsageError, "weights="),
        ("hybrid:bm25+bm25,weights=0.3,0.7", UsageError, "weights=0.3,0.7"),
        ("hybrid:bm25+bm25,method=sum", UsageError, "one of: rrf, weighted"),
        ("hybrid:bm25+bm25,k=-1", UsageError, "k=-1.*at least 0"),
        ("hybrid:bm25+bm25,depth=0", UsageError, "depth=0.*at least 1"),
        ("hybrid:bm25+bm25,method=weighted,k=9", UsageError, "k=9 with method=weighted"),
        ("hybrid:bm25+bm25,normalize=z-score", UsageError, "normalize=z-score with method=rrf"),
        ("hybrid:bm25+bm25,method=weighted,normalize=l2", UsageError, "one of: min-max, z-score"),
    ],
)
def test_what_does_not_fit(
    make_corpus: MakeCorpus, cache: Path, selector: str, error: type[RerankError], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_first_stage(selector, make_corpus("wing"))
    assert not cache.exists()


def test_weights() -> None:
    assert parse_weights("", 3) == (1.0, 1.0, 1.0)
    assert parse_weights(" 1 + 0 ", 2) == (1.0, 0.0)


def test_what_a_stage_needs_is_asked_before_another_one_works(
    make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Needy:
        def over(self, corpus: Corpus) -> object:
            raise AssertionError("opened")

        def check_prerequisites(self) -> None:
            raise MissingPrerequisiteError("no part")

    found = first_stages.get
    monkeypatch.setattr(first_stages, "get", lambda name: Needy if name == "needy" else found(name))
    with pytest.raises(MissingPrerequisiteError):
        open_first_stage("hybrid:bm25+needy", make_corpus("wing"))
    assert not cache.exists()


def test_an_error_of_a_stage_is_the_hybrids(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    file = tmp_path / "run.trec"
    file.write_text("other Q0 d1 1 5 tag\n")
    with raises(DataError, "1"):
        open_first_stage(f"hybrid:bm25+run:{file}", make_corpus("wing")).search([QUERY], 3)


def ranking(**scores: float) -> Ranking:
    return Ranking.from_scores(Query(id="q"), ((Document(id=doc_id), score) for doc_id, score in scores.items()))


def test_reciprocal_ranks() -> None:
    votes = reciprocal_rank_fusion(ranking(a=9.0, b=5.0, c=4.0))
    assert votes.values == {"a": 1 / 61, "b": 1 / 62, "c": 1 / 63}
    assert votes["z"] == 0
    assert reciprocal_rank_fusion(ranking(a=9.0, b=5.0), k=0).values == {"a": 1.0, "b": 0.5}


def test_reciprocal_ranks_count_places_where_scores_tie() -> None:
    assert reciprocal_rank_fusion(ranking(a=1.0, b=1.0)).values == {"b": 1 / 61, "a": 1 / 62}


def test_min_max() -> None:
    votes = min_max_fusion(ranking(a=10.0, b=4.0, c=2.0))
    assert votes.values == pytest.approx({"a": 1.0, "b": 0.25, "c": 0.0})
    assert votes["z"] == 0


def test_z_score() -> None:
    # mean 4, squares of the differences 16, 0 and 16, deviation sqrt(32/3)
    unit = math.sqrt(32 / 3)
    votes = z_score_fusion(ranking(a=8.0, b=4.0, c=0.0))
    assert votes.values == pytest.approx({"a": 4 / unit, "b": 0.0, "c": -4 / unit})
    assert votes["z"] == pytest.approx(-4 / unit)


@pytest.mark.parametrize("normalize", [min_max_fusion, z_score_fusion])
def test_lists_whose_scores_say_nothing(normalize: object) -> None:
    assert callable(normalize)
    assert normalize(ranking(a=3.0, b=3.0)) == FusionValues({"a": 1.0, "b": 1.0})
    assert normalize(ranking(a=-3.0)) == FusionValues({"a": 1.0})
    assert normalize(ranking()) == FusionValues({})


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_any_finite_scores_are_normalised_in_their_order(scores: list[float]) -> None:
    given = ranking(**{f"d{i}": score for i, score in enumerate(scores)})
    for votes in (min_max_fusion(given), z_score_fusion(given)):
        values = [votes[doc_id] for doc_id in given.doc_ids]
        assert all(map(math.isfinite, values))
        assert values == sorted(values, reverse=True)
        assert votes["missing"] <= values[-1]
    assert all(0 <= value <= 1 for value in min_max_fusion(given).values.values())


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9).filter(lambda scores: len(set(scores)) > 1))
def test_normalised_scores_against_exact_arithmetic(scores: list[int]) -> None:
    given = ranking(**{f"d{i}": float(score) for i, score in enumerate(scores)})
    low, span = min(scores), max(scores) - min(scores)
    mean = Fraction(sum(scores), len(scores))
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    for i, score in enumerate(scores):
        assert min_max_fusion(given)[f"d{i}"] == pytest.approx(float(Fraction(score - low, span)), abs=1e-12)
        assert z_score_fusion(given)[f"d{i}"] == pytest.approx(float(score - mean) / deviation, abs=1e-12)


def test_weighted_sum_of_what_every_list_says_of_every_document() -> None:
    lists = [FusionValues({"a": 1.0, "b": 0.5}, missing=-1.0), FusionValues({"b": 0.25, "c": 4.0})]
    assert weighted_fusion_sum(lists, [2.0, 1.0]) == {"a": 2.0, "b": 1.25, "c": 2.0}
    assert weighted_fusion_sum([], []) == {}

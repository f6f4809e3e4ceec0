"""The page of the demonstration: what moved, what is relevant, which words are shaded; texts are escaped."""

from __future__ import annotations

from rerank.evaluation import compare_runs
from rerank.experiment.demo import render_page
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.types import Document, Qrels, Query, Ranking, Run

DOCS = (Document(id="a", text="<b>red</b> fox", title="A & B"), Document(id="b", text="word " * 100))
QUERIES = [Query(id="1", text="foxes"), Query(id="2", text="<script>")]
QRELS = Qrels({"1": {"b": 1}, "2": {"a": 1}})


def runs() -> list[Run]:
    before = Run([Ranking(query, DOCS, (2.5, 1.25)) for query in QUERIES], name="bm25")
    after = Run([Ranking(query, tuple(reversed([Document(id=d.id) for d in DOCS]))) for query in QUERIES], name="new")
    return [before, after]


def span(start: int, end: int, score: float) -> EvidenceSpan:
    return EvidenceSpan(start=start, end=end, score=score)


def render(words: bool) -> str:
    def find(query: Query, docs: object) -> list[tuple[EvidenceSpan, ...]]:
        return [(span(0, 4, 0.5), span(5, 9, 0.1)), (span(3, 6, 1.0),)]

    comparison = compare_runs(QRELS, runs(), "nDCG@10")
    return render_page(comparison, ["no & difference"], runs(), QRELS, find if words else None)


def test_before_and_after() -> None:
    page = render(words=False)
    assert page.index("foxes") < page.index("&lt;script&gt;")  # the largest gain first
    assert "no &amp; difference" in page
    assert "<script>" not in page
    assert "A &amp; B" in page
    assert "&lt;b&gt;red" in page
    assert page.count(">relevant<") == 4
    assert page.count("▲ 1") == page.count("▼ 1") == 2
    assert "1.250" in page
    assert "0.500" in page  # 1/rank: the second run has no scores
    assert page.count(" …") == 4
    assert "<mark" not in page


def test_words_that_drew_attention_are_shaded_in_the_last_list() -> None:
    page = render(words=True)
    assert page.count('<mark class="heat-4">word</mark>') == 2  # largest share of its text
    assert '<mark class="heat-1">word</mark>' in page  # a fifth of it
    assert page.count('<mark class="heat-4">&gt;re') == 0
    assert page.count('<mark class="heat-4">red</mark>') == 2

"""Evidence for a list of documents, in as many prompts as they need."""

from __future__ import annotations

import pytest

from rerank.assemble import assemble_ranker
from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, PartialFailureError, UsageError
from rerank.judges import PromptJudge, open_judge
from rerank.pipeline.evidence import find_evidence
from rerank.prompts import load_prompt
from rerank.types import Document, Query
from tests.raising import raises

QUERY = Query(id="q", text="fleas")


def attention(fake: Fake) -> PromptJudge:
    return open_judge("attention", fake, load_prompt("icr_qa"))


def test_documents_keep_their_order_and_ids_may_repeat() -> None:
    fake = Fake("perfect")
    documents = [Document(id="a", text=text) for text in ("Dogs bark. Fleas jump.", "", "Fleas bite. Cats purr.")]
    found = find_evidence(attention(fake), fake, QUERY, documents)
    assert [[doc.text[s.start : s.end] for s in spans] for doc, spans in zip(documents, found, strict=True)] == [
        ["Fleas jump."],
        [],
        ["Fleas bite."],
    ]
    assert len(fake.served) == 1
    assert find_evidence(attention(fake), fake, QUERY, []) == []


def test_lists_that_do_not_fit_are_judged_in_parts() -> None:
    fake = Fake("perfect", context_size=150)
    documents = [Document(id=str(n), text=f"Fleas {'jump ' * n}. Dogs {'bark ' * 20}.") for n in range(1, 10)]
    found = find_evidence(attention(fake), fake, QUERY, documents)
    assert len(fake.served) > 1
    for document, (span,) in zip(documents, found, strict=True):
        assert document.text[span.start : span.end].startswith("Fleas jump")
        assert document.text[span.start : span.end].endswith(".")
    with pytest.raises(ContextOverflowError):
        tiny = Fake("perfect", context_size=40)
        find_evidence(attention(tiny), tiny, QUERY, documents)


def test_threshold_and_number_of_spans() -> None:
    fake = Fake("perfect")
    documents = [Document(id="1", text="Fleas fleas fleas. Dogs bark. Fleas bite.")]
    assert [len(spans) for spans in find_evidence(attention(fake), fake, QUERY, documents)] == [2]
    assert [len(spans) for spans in find_evidence(attention(fake), fake, QUERY, documents, threshold=0.5)] == [1]
    assert [len(spans) for spans in find_evidence(attention(fake), fake, QUERY, documents, max_spans=1)] == [1]
    ((fleas, jump),) = find_evidence(
        attention(fake), fake, QUERY, [Document(id="1", text="Fleas jump")], unit="word", threshold=None
    )
    assert (fleas.end, fleas.score, jump.start, jump.score) == (5, 1.0, 6, 0.0)
    before = len(fake.served)
    with raises(UsageError, "max_spans"):
        find_evidence(attention(fake), fake, QUERY, documents, max_spans=0)
    assert len(fake.served) == before


def test_other_judges_and_failures() -> None:
    fake = Fake("perfect")
    with raises(UsageError, "'generate'", "--method icr"):
        find_evidence(open_judge("generate", fake, load_prompt("listwise")), fake, QUERY, [])
    failing = Fake("fail")
    with raises(PartialFailureError, "fake:fail"):
        find_evidence(attention(failing), failing, QUERY, [Document(id="1", text="Fleas.")])


@pytest.mark.model
def test_the_shipped_adapter_finds_a_planted_sentence() -> None:
    setup = assemble_ranker({"adapter": "smollm2-135m-attention"})
    backend = setup.open_backend()
    text = "The town  has two bakeries.\n\nFleas live for months without a host [2]. Steel bridges rust!"
    ((span, *_),) = find_evidence(
        setup.open_judge(backend),
        backend,
        Query(id="q", text="how long is the life of a flea"),
        [Document(id="1", text=text, title="Notes")],
        max_spans=1,
    )
    assert "Fleas live for months without a host [2]." in text[span.start : span.end]

"""PyTerrier: its own tests for transformers, several queries, experiments."""

from __future__ import annotations

import unittest
from typing import Any

import pytest

pytestmark = pytest.mark.integrations


def transformer(**options: Any) -> Any:
    from rerank.integrations.pyterrier import RerankerTransformer

    return RerankerTransformer("fake:reversed", **options)


def results() -> Any:
    """Two queries, interleaved, whose rows are not in the order of their scores."""
    import pandas as pd

    rows = [
        ("2", "r", "x", 1.0),
        ("1", "q", "a", 1.0),
        ("2", "r", "y", 2.0),
        ("1", "q", "b", 3.0),
        ("1", "q", "c", 2.0),
    ]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "score"])
    return frame.assign(body="text " + frame["docno"], rank=0, url="u")


def test_the_test_case_of_pyterrier() -> None:
    import pyterrier as pt

    class Case(pt.testing.TransformerTestCase):  # type: ignore[misc]
        @staticmethod
        def get_transformer() -> Any:
            return transformer()

    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(outcome)
    assert outcome.testsRun == 2
    assert (outcome.errors, outcome.failures, outcome.skipped) == ([], [], [])
    assert pt.inspect.transformer_inputs(transformer()) == [["qid", "docno", "query", "text"]]
    columns = ["qid", "docno", "query", "text", "score", "rank"]
    assert pt.inspect.transformer_outputs(transformer(), columns[:4]) == columns


def test_the_first_stage_order_is_that_of_the_scores() -> None:
    ranked = transformer(text_field="body")(results())
    assert list(zip(ranked["qid"], ranked["docno"], ranked["rank"], strict=True)) == [
        ("2", "x", 0),
        ("2", "y", 1),
        ("1", "a", 0),
        ("1", "c", 1),
        ("1", "b", 2),
    ]
    assert list(ranked.columns) == ["qid", "query", "docno", "score", "body", "rank", "url"]
    assert list(transformer(text_field="body", top_n=1)(results())["docno"]) == ["x", "a"]


def test_rows_without_a_query_id_are_not_lost() -> None:
    assert len(transformer(text_field="body")(results().assign(qid=["1", "1", None, None, "2"]))) == 5


def test_attributes_are_inspectable() -> None:
    import pyterrier as pt

    attributes = {each.name: each.value for each in pt.inspect.transformer_attributes(transformer(top_n=3))}
    assert (attributes["model"], attributes["top_n"]) == ("fake:reversed", 3)
    rebuilt = pt.inspect.transformer_apply_attributes(transformer(text_field="body"), top_n=1)
    assert list(rebuilt(results())["docno"]) == ["x", "a"]


def test_a_missing_column_is_named() -> None:
    import pyterrier as pt

    with pytest.raises(pt.validate.InputValidationError, match="text"):
        transformer()(results())


def test_an_experiment() -> None:
    import pandas as pd
    import pyterrier as pt

    first = pt.Transformer.from_df(results())
    qrels = pd.DataFrame([("1", "a", 1), ("2", "x", 1)], columns=["qid", "docno", "label"])
    topics = pd.DataFrame([("1", "q"), ("2", "r")], columns=["qid", "query"])
    table = pt.Experiment([first, first >> transformer(text_field="body")], topics, qrels, ["recip_rank"])
    assert list(table["recip_rank"]) == [pytest.approx((1 / 3 + 1 / 2) / 2), 1.0]

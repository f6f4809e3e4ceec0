"""The shipped adapter in Python: with first-stage scores it ranks as the command does, without them by attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank import Reranker, RunSpec, read_run
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution

pytestmark = pytest.mark.model

QUERY = "how long do fleas live"
TEXTS = [
    "The town has two bakeries and a mill.",
    "A flea can live up to 100 days, depending on the temperature.",
    "Steel bridges rust if they are not painted.",
    "Fleas are insects that feed on the blood of mammals and birds.",
    "Cats sleep for most of the day.",
]
SCORES = [9.0, 7.5, 6.0, 4.25, 4.0]
ADAPTER = "smollm2-135m-attention"


def test_with_scores_it_ranks_as_the_command_and_without_by_attention_alone(tmp_path: Path) -> None:
    candidates = [
        {"docid": str(n), "doc": text, "score": score}
        for n, (text, score) in enumerate(zip(TEXTS, SCORES, strict=True))
    ]
    row = {"query": {"qid": "q", "text": QUERY}, "candidates": candidates}
    (tmp_path / "lists.jsonl").write_text(json.dumps(row), encoding="utf-8")
    spec = RunSpec.make(
        {"collection": f"requests:{tmp_path / 'lists.jsonl'}", "first_stage": "candidates", "adapter": ADAPTER}
    )
    run_experiment(spec, Execution(out=tmp_path / "run"))
    with Reranker.from_pretrained(adapter=ADAPTER) as reranker:
        scored = reranker.rank(QUERY, TEXTS, scores=SCORES)
        assert [str(hit.corpus_id) for hit in scored] == list(read_run(tmp_path / "run" / "run.trec")["q"].doc_ids)
        assert scored.notes == ()
        alone = reranker.rank(QUERY, TEXTS)
    assert "only the judge's scores counted" in alone.notes[0]
    assert {alone[0].corpus_id, alone[1].corpus_id} == {1, 3}
    # Without first-stage scores the order is that of the judge's own scores; with them it is not.
    assert [hit.score for hit in alone] == sorted((hit.score or 0.0 for hit in alone), reverse=True)
    assert [hit.corpus_id for hit in scored] != [hit.corpus_id for hit in alone]
    # Its calibration belongs to it, also without the first stage's scores.
    for hits in (scored, alone):
        chances = [hit.relevance for hit in hits]
        assert all(chance is not None and 0 < chance < 1 for chance in chances)
        assert chances == sorted((chance or 0.0 for chance in chances), reverse=True)
    assert (tmp_path / "run" / "relevance.jsonl").is_file()

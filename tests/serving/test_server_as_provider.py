"""Our server as the provider of our own backends: orders and scores are those of the library."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.adjudication.judging.grader import Grader
from rerank.backends.decisions import Decisions
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.tasks import BackendOptions, ContinuationTask, GenerationTask, Reply, Request
from rerank.types import Document, Query, Window
from tests.judges.scripted import Scripted
from tests.judging import judge_windows

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.enable_socket

TEXTS = [f"text {n} about {'snow' if n % 3 else 'rain'}" for n in range(9)]
#: Prompts whose parts are exactly what the server's own prompts show.
PREDICATE = 'method: pointwise\nbody: "{candidate}"\nsuffix: "{query}"\n'
CHOICE = (
    'method: listwise\nprefix: "{query}"\nbody: "[{rank}] {candidate}"\nsuffix: Which is right?\nreply_prefix: "["\n'
)


def _log_probabilities_of_prompt(request: Request) -> Reply:
    """Answer with log-probabilities that any change of the prompt changes."""
    shown = "".join(f"{message.role}:{message.content}" for message in request.prompt)
    assert isinstance(request.task, ContinuationTask)
    digests = (hashlib.sha256(f"{shown}|{text}".encode()).digest() for text in request.task.continuations)
    weights = [1 + digest[0] for digest in digests]
    return Reply(scores=tuple(math.log(weight / sum(weights)) for weight in weights), tokens_in=10)


@pytest.fixture
def model() -> Scripted:
    return Scripted(_log_probabilities_of_prompt, ContinuationTask, GenerationTask)


@pytest.fixture
def open_provider(address: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Reranker], str]:
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service
    from rerank.serving.settings import ServerKeys, ServerSettings

    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def serve(reranker: Reranker) -> str:
        service = create_ranking_service(reranker, ServerSettings(name="m"))
        return address(create_server_app(service, ServerKeys.from_keys(())))

    return serve


@pytest.fixture
def decisions(open_provider: Callable[[Reranker], str], model: Scripted) -> Iterator[Decisions]:
    url = open_provider(Reranker.from_backend(model, method="fullrank"))
    backend = Decisions.connect("m", BackendOptions(base_url=f"{url}/v1"))
    yield backend
    backend.close()


@pytest.mark.parametrize("api", ["cohere", "jina", "voyage", "zeroentropy", "tei", "vllm", "vllm-score"])
def test_the_order_of_a_rerank_api_is_that_of_the_library(
    api: str, open_provider: Callable[[Reranker], str], model: Scripted
) -> None:
    local = Reranker.from_backend(model, method="full:pick")
    expected = [hit.corpus_id for hit in local.rank("snow in winter", TEXTS)]
    assert expected != sorted(expected)
    remote = Reranker.from_pretrained(f"api:{api}/m", base_url=open_provider(local), context_size=4096)
    hits = remote.rank("snow in winter", TEXTS)
    remote.close()
    assert [hit.corpus_id for hit in hits] == expected
    assert hits.windows["ok"] == 1


def _window(*texts: str, query: str = "snow in winter", instruction: str = "") -> Window:
    docs = tuple(Document(id=str(n), text=text) for n, text in enumerate(texts))
    return Window(Query(id="q", text=query, instruction=instruction), docs)


def _scores(judge: Any, window: Window) -> list[float]:
    (verdict,) = judge_windows(judge, [window])
    assert verdict.status == "ok"
    return [score for score in verdict.scores if score is not None]


def test_predicates_are_those_of_the_local_judge(decisions: Decisions, model: Scripted, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PREDICATE)
    local = open_judge("score", model, load_prompt("decision_predicate"))
    remote = open_judge("score", decisions, load_prompt(str(tmp_path / "p.yaml")))
    window = _window(*TEXTS)
    assert _scores(remote, window) == pytest.approx(_scores(local, window), abs=1e-9)
    verdicts = [judge_windows(judge, [window])[0].order for judge in (remote, local)]
    assert verdicts[0] == verdicts[1] != tuple(range(9))


@pytest.mark.parametrize("judge", ["pick", "logits"])
def test_choices_are_those_of_the_local_judge(
    judge: str, decisions: Decisions, model: Scripted, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(CHOICE)
    remote = open_judge(judge, decisions, load_prompt(str(tmp_path / "p.yaml")))
    local = open_judge("pick", model, load_prompt("decision_choice"))
    labelled = [f"{letter}: [{letter}] {text}" for letter, text in zip("ABCDEFGHI", TEXTS, strict=True)]
    expected = _scores(local, _window(*labelled, instruction="Which is right?"))
    found = _scores(remote, _window(*TEXTS))
    total = math.log(sum(map(math.exp, expected)))  # the probabilities of a decision sum to 1
    assert found == pytest.approx([score - total for score in expected], abs=1e-9)


def test_grades_are_those_of_the_local_choice(decisions: Decisions, model: Scripted, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PREDICATE)
    grader = Grader(backend=decisions, template=load_prompt(str(tmp_path / "p.yaml")))
    local = open_judge("pick", model, load_prompt("decision_choice"))
    for text in TEXTS:
        (reply,) = decisions.generate([grader.request(_window(text))])
        levels = _scores(local, _window("0", "1", "2", "3", query=text, instruction="snow in winter"))
        assert grader.read(reply).grade == levels.index(max(levels))

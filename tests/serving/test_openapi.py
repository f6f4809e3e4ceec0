"""The OpenAPI description against the server: schemathesis sends what the description allows, and more.

Schemathesis is in an environment of its own (`make test-api`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.serving.settings import ServerKeys, ServerSettings

pytest.importorskip("fastapi")


def describe(keys: tuple[str, ...]) -> dict[str, Any]:
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service

    service = create_ranking_service(Reranker.from_pretrained("fake:reversed"))
    return create_server_app(service, ServerKeys.from_keys(keys)).openapi()


@pytest.mark.parametrize(("keys", "check"), [((), "421"), (("key",), "401")])
def test_every_endpoint_documents_the_errors_that_it_can_give(keys: tuple[str, ...], check: str) -> None:
    of_model = {"200", "400", check, "413", "422", "429", "500", "503", "504"}
    statuses = {"/health": {"200", "503"}, "/ready": {"200", "503"}}
    for path, methods in describe(keys)["paths"].items():
        for method, operation in methods.items():
            documented = operation["responses"]
            others = of_model if method == "post" else {"200", check, "500", "503"}
            assert set(documented) == statuses.get(path, others), path
            for status in set(documented) - {"200"}:
                schema = documented[status]["content"]["application/json"]["schema"]
                assert "Error" in str(schema), (path, status)
                assert "HTTPValidationError" not in str(schema), (path, status)


def test_keys_are_declared_where_they_are_needed() -> None:
    assert "security" not in (described := describe(()))
    assert "securitySchemes" not in described["components"]
    described = describe(("key",))
    ((name, scheme),) = described["components"]["securitySchemes"].items()
    assert (scheme, described["security"]) == ({"type": "http", "scheme": "bearer"}, [{name: []}])
    of_paths = {path: next(iter(methods.values())).get("security") for path, methods in described["paths"].items()}
    assert {path for path, security in of_paths.items() if security == []} == {"/health", "/ready"}


def test_the_names_of_schemas_are_those_of_classes_in_generated_clients() -> None:
    names = """
    ChoiceAnswer ChoiceProbability ChoiceQuestion CohereDocument CohereError CohereRequest CohereResponse CohereResult
    CohereSpan CommonDocument CommonError CommonRequest CommonResponse CommonResult CommonUsage DecisionChoice
    DecisionLevel DecisionRequest DecisionResponse DecisionUsage DocumentParts ErrorDetails InputTokens LevelProbability
    MixedbreadRequest MixedbreadResponse MixedbreadResult NimQuery NimRanking NimRequest NimResponse
    OpenaiError OutputTokens PairScore PlaygroundRequest
    PredicateAnswer PredicateQuestion RefusalAnswer RelevantSpans ScoreAnswer ScoreQuestion ScoreRequest ScoreResponse
    SglangError SglangResult TeiError TeiRequest TeiResult VoyageResult ZeroentropyResponse ZeroentropyResult
    """
    assert set(describe(())["components"]["schemas"]) == set(names.split())


@pytest.mark.enable_socket
def test_schemathesis_finds_nothing(address: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service

    service = create_ranking_service(Reranker.from_pretrained("fake:reversed"), ServerSettings(max_documents=20))
    url = address(create_server_app(service))
    config = Path(__file__).with_name("schemathesis.toml")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)]
    ended = subprocess.run(
        [*command, "run", f"{url}/openapi.json", "--max-examples", "50", "--seed", "1", "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout

"""Messages about invalid bodies, which name fields as clients write them."""

from __future__ import annotations

import pytest

from tests.serving.conftest import Client

pytest.importorskip("fastapi")

CHOICE = (
    b'{"input": "a", "questions": [{"type": "choice", "instructions": "a", "choices": [{"value": 1}, {"value": "x"}]}]}'
)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/rerank", b'{"query": 3, "documents": ["a"]}', "query is 3; expected a text"),
        ("/v2/rerank", b'{"query": "a", "documents": [3]}', "documents[0] is 3; expected a text or an object"),
        ("/v2/rerank", b'{"query": "a", "documents": "x"}', "documents is 'x'; expected a list"),
        ("/rerank", b'{"query": null, "texts": ["a"]}', "query is null; expected a text"),
        ("/rerank", b'{"query": "a", "texts": ["b", {}]}', "texts[1] is an object; expected a text"),
        ("/rerank", b'{"query": "a"}', "documents is missing; expected a value"),
        ("/v2/rerank", b'{"query": "a", "documents": [], "top_n": -1}', "top_n is -1; expected at least 0"),
        ("/v2/rerank", b'{"query": "a", "documents": [], "top_n": 1.5}', "top_n is 1.5; expected a whole number"),
        ("/v2/rerank", b'{"query": "a", "documents": [], "scores": ["x"]}', "scores[0] is 'x'; expected a number"),
        (
            "/v2/rerank",
            b'{"query": "a", "documents": [], "relevant_spans": {"mode": "x"}}',
            "relevant_spans.mode is 'x'; expected 'enabled' or 'disabled'",
        ),
        (
            "/v2/rerank",
            b'{"query": "a", "documents": [], "relevant_spans": {"most": 1}}',
            "relevant_spans.most is 1; expected no such field",
        ),
        (
            "/v1/ranking",
            b'{"query": {"text": "a", "image": "b"}, "passages": []}',
            "query.image is 'b'; expected no such field",
        ),
        ("/score", b'{"text_1": 3, "text_2": ["a"]}', "text_1 is 3; expected a text or a list"),
        ("/score", b'{"text_1": "a", "text_2": ["b", true]}', "text_2[1] is true; expected a text"),
        ("/v1/decisions", CHOICE, "questions[0].choices[0].value is 1; expected a text or true or false"),
        (
            "/v1/decisions",
            b'{"input": "a", "questions": [{"type": "no"}]}',
            "questions[0].type is 'no'; expected one of 'predicate', 'choice', 'score'",
        ),
        ("/v1/decisions", b'{"input": "a", "questions": [{}]}', "questions[0].type is missing; expected a type"),
        (
            "/v1/decisions",
            b'{"input": "a", "questions": []}',
            "questions is a list of length 0; expected at least 1 item",
        ),
        ("/score", b'{"text_1": "a"}', "text_2 is missing; expected a value"),
        ("/rerank", b"[1]", "The body is a list of length 1; expected an object"),
        (
            "/rerank",
            b'{"query": ',
            "The body is not valid JSON: Expecting value at character 10; expected a JSON object",
        ),
        ("/rerank", b"", "The request has no body; expected a JSON object"),
    ],
)
def test_the_message_names_the_field_as_the_client_wrote_it(
    client: Client, path: str, body: bytes, message: str
) -> None:
    response = client().post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == (422 if body.endswith(b"}") else 400)
    answer = response.json()
    found = answer.get("message") or answer["error"]
    assert (found if isinstance(found, str) else found["message"]) == message


@pytest.mark.parametrize(
    ("headers", "named"), [({}, "no Content-Type"), ({"Content-Type": "text/plain"}, "text/plain")]
)
def test_a_body_that_does_not_say_that_it_is_json(client: Client, headers: dict[str, str], named: str) -> None:
    response = client().post("/v2/rerank", content=b'{"query": "a", "documents": ["a"]}', headers=headers)
    assert response.status_code == 400
    assert named in response.json()["message"]
    assert "application/json" in response.json()["message"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"query": "\xff", "documents": ["a"]}', "byte 11 is not valid UTF-8"),
        (b'{"query": "a", "documents": ["a"], "top_n": ' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"query": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_body_that_no_json_reader_accepts(client: Client, body: bytes, named: str) -> None:
    response = client().post("/v2/rerank", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert named in response.json()["message"]


def test_a_path_or_method_that_does_not_exist_names_what_does(client: Client) -> None:
    served = client()
    unknown, wrong = served.post("/v1/search", json={"query": "a"}), served.get("/v2/rerank")
    assert unknown.status_code == 404
    assert "--collection" in unknown.json()["message"]
    assert wrong.status_code == 405
    assert wrong.json()["message"].endswith("expected POST for /v2/rerank")

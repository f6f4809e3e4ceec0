"""Pictures in requests, with a tiny vision-language model of random weights: shapes of Jina and vLLM, and refusals."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from PIL import Image

from rerank import Reranker
from rerank.errors import DataError
from rerank.io.pictures import open_picture, picture_hash
from rerank.serving.app import create_server_app
from rerank.serving.ranking_service import create_ranking_service
from rerank.serving.settings import ServerSettings
from rerank.tasks.dialects.question import document_pictures, document_texts
from tests.backends.seeing import draw, make_idefics, make_jina
from tests.raising import raises

QUERY = "a red square"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw(tmp_path_factory.mktemp("pictures"))[:3]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    folder = make_idefics(tmp_path_factory.mktemp("model") / "idefics3")
    return Reranker.from_pretrained(str(folder), method="pointwise-images", prompt="qwen3_vl_reranker", dtype="float32")


def client_of(reranker: Reranker, **settings: Any) -> TestClient:
    app = create_server_app(create_ranking_service(reranker, ServerSettings(**settings)))
    return TestClient(app, base_url="http://127.0.0.1")


def base64_of(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def uri(path: str) -> str:
    return f"data:image/png;base64,{base64_of(path)}"


def order(answer: Any) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [result["index"] for result in answer.json()["results"]]


def test_pictures_of_both_apis_rank_as_files_do(reranker: Reranker, paths: list[str]) -> None:
    expected = [hit.corpus_id for hit in reranker.rank(QUERY, [{"image": path} for path in paths])]
    shapes: list[Any] = [
        [{"image": uri(path)} for path in paths],
        [{"image": base64_of(path)} for path in paths],
        {"content": [{"type": "image_url", "image_url": {"url": uri(path)}} for path in paths]},
        [{"content": [{"type": "image_url", "image_url": {"url": uri(path)}}]} for path in paths],
    ]
    with client_of(reranker) as client:
        for documents in shapes:
            assert order(client.post("/v1/rerank", json={"query": QUERY, "documents": documents})) == expected
        assert order(client.post("/v2/rerank", json={"query": QUERY, "documents": shapes[0]})) == expected


def test_texts_and_pictures_are_ranked_together(reranker: Reranker, paths: list[str]) -> None:
    given = [{"image": paths[0]}, {"text": "a red fox", "image": paths[1]}, "a blue whale"]
    expected = [hit.corpus_id for hit in reranker.rank(QUERY, given)]
    parts = [{"type": "text", "text": "a red fox"}, {"type": "image_url", "image_url": uri(paths[1])}]
    documents = [{"image": uri(paths[0])}, {"content": parts}, "a blue whale"]
    with client_of(reranker) as client:
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": documents})
    assert order(answer) == expected
    texts = {result["index"]: result["document"]["text"] for result in answer.json()["results"]}
    assert texts == {0: "", 1: "a red fox", 2: "a blue whale"}


def test_a_reranker_with_a_head_reads_pictures_too(paths: list[str], tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    jina = Reranker.from_pretrained(str(make_jina(tmp_path / "jina")), dtype="float32")
    expected = [hit.corpus_id for hit in jina.rank(QUERY, [*({"image": path} for path in paths), "a blue whale"])]
    documents = [*({"image": uri(path)} for path in paths), {"text": "a blue whale"}]
    with client_of(jina) as client:
        assert order(client.post("/v1/rerank", json={"query": QUERY, "documents": documents})) == expected


@pytest.mark.parametrize(
    ("document", "status", "named"),
    [
        ({"image": "/etc/passwd"}, 422, "files of the server are not read"),
        ({"image": "secrets.png"}, 422, "files of the server are not read"),
        ({"image": "file:///etc/passwd"}, 422, "files of the server are not read"),
        (
            {"image": "http://169.254.169.254/latest/meta-data"},
            422,
            "'169.254.169.254', from which this server fetches",
        ),
        ({"image": "data:image/png,abc"}, 422, "cannot be decoded"),
        ({"image": "data:image/png;base64,%%%"}, 422, "cannot be decoded"),
        ({"image": "data:image/png;base64," + "QUJD" * 40}, 422, "no picture that Pillow reads"),
        ({"content": [{"image": "data:a;base64,QUJD"}] * 2}, 422, "2 pictures"),
    ],
)
def test_other_pictures_are_refused(reranker: Reranker, document: Any, status: int, named: str) -> None:
    with client_of(reranker) as client:
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [document]})
    assert answer.status_code == status
    assert named in answer.text
    assert len(answer.text) < 1000  # the message, three times


def test_large_pictures_are_refused_before_they_are_decoded(reranker: Reranker) -> None:
    file = io.BytesIO()
    Image.new("1", (3000, 2000)).save(file, "png")
    large = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    with client_of(reranker, max_image_pixels=5_000_000) as client:
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [{"image": large}]})
    assert answer.status_code == 413
    assert "6000000 pixels; expected at most 5000000" in answer.text


def test_a_model_for_texts_refuses_pictures(paths: list[str]) -> None:
    with client_of(Reranker.from_pretrained("fake:reversed")) as client:
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [{"image": uri(paths[0])}]})
    assert answer.status_code == 422
    assert "ranks texts only" in answer.text


@pytest.fixture
def pictures_server(paths: list[str]) -> Iterator[int]:
    """A server with a picture, a large one, a missing one and a redirect."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = {"/0.png": Path(paths[0]).read_bytes(), "/large.png": b"x" * 200_000}.get(self.path)
            self.send_response(302 if self.path == "/moved.png" else 404 if content is None else 200)
            if self.path == "/moved.png":
                self.send_header("Location", "/0.png")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.enable_socket
def test_addresses_of_allowed_hosts_are_fetched(reranker: Reranker, paths: list[str], pictures_server: int) -> None:
    where = f"http://127.0.0.1:{pictures_server}"

    def ask(*documents: str) -> Any:
        with client_of(reranker, image_hosts=("127.0.0.1",), max_body_bytes=100_000) as client:
            given = [{"image": document} for document in documents]
            return client.post("/v1/rerank", json={"query": QUERY, "documents": given})

    expected = [hit.corpus_id for hit in reranker.rank(QUERY, [{"image": path} for path in paths[:2]])]
    assert order(ask(f"{where}/0.png", uri(paths[1]))) == expected
    for name, status, named in (
        ("none.png", 422, "status 404"),
        ("moved.png", 422, "status 302"),
        ("large.png", 413, "larger than the 100000 bytes"),
    ):
        answer = ask(f"{where}/{name}")
        assert (answer.status_code, named in answer.text) == (status, True), answer.text
    answer = ask("http://localhost:1/0.png")
    assert "'localhost', from which this server fetches none" in answer.text


def test_documents_without_pictures_stay_what_they_were() -> None:
    documents: list[Any] = ["a", {"text": "b"}, {"title": "c", "year": 1}, {"content": "d"}]
    assert document_pictures(documents) == ()
    assert document_texts(documents) == ["a", "b", "title: c\nyear: 1", "content: d"]


def test_python_reads_data_uris_too(paths: list[str]) -> None:
    assert open_picture(uri(paths[0])).tobytes() == open_picture(paths[0]).tobytes()
    assert picture_hash(uri(paths[0])) == picture_hash(paths[0]) != ""
    assert picture_hash("data:image/png;base64,?") == ""
    with raises(DataError, "data:image/png;base64,QUJD", "not a readable picture"):
        open_picture("data:image/png;base64,QUJD")

"""A stand-in for the Hugging Face hub on loopback, from which the real client downloads models and data sets.

Its URLs and headers are those that huggingface_hub 2.4 uses, without Xet. As a script, it serves a folder of models::

    python tests/hub_server.py FOLDER --port 8080   # FOLDER/acme/tiny is the model acme/tiny
    HF_ENDPOINT=http://127.0.0.1:8080 hf download acme/tiny
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    import pytest  # the script runs without it

# /api/models/REPO[/revision/REVISION], /api/models/REPO/tree/REVISION[/FOLDER], /REPO/resolve/REVISION/FILE
_PATH = re.compile(
    r"/(?:api/)?(?:models/)?(?P<repo>(?:datasets/)?[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<view>revision|tree|resolve)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit. A large file (LFS) is identified by its SHA-256, any other by the SHA-1 of its git blob."""

    content: bytes
    is_large: bool

    @cached_property
    def etag(self) -> str:
        if self.is_large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    """Files of each commit, and the commits that branches and tags point to."""

    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    refused_status: int | None = None
    token: str = ""  # for others, a private repository does not exist; its metadata, too


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the requests whose path contains a match of ``path``."""

    path: str = ""
    status: int | None = None  #: respond with this status only
    is_silent: bool = False  #: accept the connection and the request, and send nothing until the server stops
    cut_at: int | None = None  #: close the connection after this many bytes of the body
    bytes_per_second: float | None = None  #: send the body at this speed
    times: int | None = None  #: only the first N such requests; None for all


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes = b""


class HubServer:
    """The server; a context manager that runs it.

    A repository id names a model (``acme/tiny`` or ``tiny``), or a data set if it starts with ``datasets/``.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        #: Method and path (with the query) of every request, in order of arrival.
        self.requests: list[tuple[str, str]] = []
        #: The first fault that matches a request applies to it. Remove them to repair the server.
        self.faults: list[Fault] = []
        self._stopped = threading.Event()
        self._repositories: dict[str, Repository] = {}
        self._storage: dict[str, StoredFile] = {}  # large files by path on this server

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Accept connections; after a stop, on the same port as before."""
        self._stopped.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), partial(_Handler, self))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until the next start. The repositories stay."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def commit(self, repo_id: str, files: Path | Mapping[str, bytes | Path], *, branch: str = "main") -> str:
        """Store a commit with exactly these files, move the branch to it, and return its id.

        Args:
            repo_id: Repository, created if it is new.
            files: Contents by path, or a folder. Files named ``*.safetensors`` are large files.
            branch: Branch, created if it is new.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        stored = {}
        for path, file in sorted(files.items()):
            content = file if isinstance(file, bytes) else file.read_bytes()
            stored[path] = StoredFile(content, is_large=path.endswith(".safetensors"))
        repository = self._repositories.setdefault(repo_id, Repository())
        identity = [repository.refs.get(branch), *((path, file.etag) for path, file in stored.items())]
        commit = hashlib.sha1(repr(identity).encode()).hexdigest()
        self._storage |= {f"/storage/{file.etag}": file for file in stored.values() if file.is_large}
        repository.commits[commit] = stored
        repository.refs[branch] = commit
        return commit

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        """Create a tag that points to a commit."""
        self._repositories[repo_id].refs[name] = commit

    def refuse(self, repo_id: str, status: int | None = 403) -> None:
        """Gate a repository: its files get status 401 or 403, its metadata stays public. None opens it again."""
        self._repositories[repo_id].refused_status = status

    def hide(self, repo_id: str, token: str) -> None:
        """Make a repository private: only requests with this token see it. An empty token makes it public again."""
        self._repositories[repo_id].token = token

    def fault_of(self, target: str) -> Fault:
        """Return the fault that applies to a request, and count it."""
        for fault in self.faults:
            if fault.times != 0 and re.search(fault.path, target):
                fault.times = fault.times and fault.times - 1
                return fault
        return Fault()

    def wait(self, seconds: float | None = None) -> None:
        """Wait, but not longer than the server runs."""
        self._stopped.wait(seconds)

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables that make another process use this hub, with its cache in the folder ``home``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "SENTENCE_TRANSFORMERS_HOME": str(home / "hub"),
            "HF_TOKEN": "",
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",  # otherwise, the first request of a process is GET /api/agent-harnesses
        }

    def respond(self, target: str, byte_range: str = "", token: str = "") -> Response:
        """Return the response to a GET request. HEAD requests get the same without the body."""
        url = urlsplit(target)
        if url.path in self._storage:
            return _send_content(self._storage[url.path], byte_range, {})
        if not (match := _PATH.fullmatch(url.path)):
            return Response(404, {})
        repo_id, view, revision, path = map(unquote, match.groups(default=""))
        repository = self._repositories.get(repo_id)
        if repository is None or token != (repository.token or token):
            return _send_error(404 if token else 401, "RepoNotFound", {})  # as the real hub does without a token
        commit = repository.refs.get(revision or "main", revision)
        if (files := repository.commits.get(commit)) is None:
            return _send_error(404, "RevisionNotFound", {})
        if view == "resolve":
            return self._send_file(repository, commit, path, byte_range)
        options = parse_qs(url.query)
        if view == "tree":
            return _send_tree(files, path, is_recursive=options.get("recursive") == ["true"])
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in files]
        if options.get("blobs") == ["true"]:
            siblings = [{"rfilename": entry["path"], "blobId": entry["oid"], **entry} for entry in _list_files(files)]
        return _send_json({"id": repo_id.removeprefix("datasets/"), "sha": commit, "tags": [], "siblings": siblings})

    def _send_file(self, repository: Repository, commit: str, path: str, byte_range: str) -> Response:
        headers = {"X-Repo-Commit": commit}
        if repository.refused_status:
            return _send_error(repository.refused_status, "GatedRepo", headers)
        if (file := repository.commits[commit].get(path)) is None:
            return _send_error(404, "EntryNotFound", headers)
        if not file.is_large:
            return _send_content(file, byte_range, headers)
        headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.etag}"'}
        # To another origin, as on the real hub: the client takes the metadata from the redirect, and drops its token.
        return Response(302, headers | {"Location": f"http://localhost:{self.port}/storage/{file.etag}"})


def _send_error(status: int, code: str, headers: dict[str, str]) -> Response:
    return Response(status, headers | {"X-Error-Code": code, "X-Error-Message": f"{code} from the stand-in"})


def _send_json(value: Any) -> Response:
    return Response(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _send_content(file: StoredFile, byte_range: str, headers: dict[str, str]) -> Response:
    headers = headers | {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if not (match := _RANGE.fullmatch(byte_range)):
        return Response(200, headers, file.content)
    size = len(file.content)
    start, stop = int(match[1]), min(int(match[2] or size) + 1, size)
    if start >= stop:
        return Response(416, headers | {"Content-Range": f"bytes */{size}"})
    return Response(206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, file.content[start:stop])


def _send_tree(files: dict[str, StoredFile], folder: str, *, is_recursive: bool) -> Response:
    """List the files in a folder; other than the real hub, without subfolders."""
    prefix = f"{folder}/" if folder else ""
    if not any(path.startswith(prefix) for path in files):
        return _send_error(404, "EntryNotFound", {})
    inside = {path: file for path, file in files.items() if path.startswith(prefix)}
    if not is_recursive:
        inside = {path: file for path, file in inside.items() if "/" not in path.removeprefix(prefix)}
    return _send_json([{"type": "file", **entry} for entry in _list_files(inside)])


def _list_files(files: dict[str, StoredFile]) -> list[dict[str, Any]]:
    listing: list[dict[str, Any]] = []
    for path, file in files.items():
        listing.append({"path": path, "size": len(file.content), "oid": file.etag[:40]})
        if file.is_large:
            # The tree of the real hub names the SHA-256 oid, the information about a model sha256.
            listing[-1]["lfs"] = {"oid": file.etag, "sha256": file.etag, "size": len(file.content), "pointerSize": 134}
    return listing


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.0: without connections that are kept alive, a stopped server is stopped for every client."""

    def __init__(self, hub: HubServer, *connection: Any) -> None:
        self._hub = hub
        super().__init__(*connection)

    def do_GET(self) -> None:
        self._hub.requests.append((self.command, self.path))
        fault = self._hub.fault_of(self.path)
        if fault.is_silent:
            return self._hub.wait()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        response = self._hub.respond(self.path, self.headers.get("Range", ""), token)
        if fault.status:
            response = Response(fault.status, {})
        with suppress(ConnectionError):  # the client has closed the connection
            self.send_response(response.status)
            for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self._send_body(b"" if self.command == "HEAD" else response.body[: fault.cut_at], fault.bytes_per_second)
        return None

    def _send_body(self, body: bytes, bytes_per_second: float | None) -> None:
        size = max(1, int((bytes_per_second or 0) / 20)) if bytes_per_second else len(body) or 1
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            if bytes_per_second:
                self._hub.wait(size / bytes_per_second)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base class
        pass


def use_in_process(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the clients in this process use the hub, with their cache in ``home``, and retry without waiting.

    Setting the environment is not enough, because huggingface_hub copies it when it is imported.
    """
    from huggingface_hub import constants, hf_api

    variables = hub.environment(home)
    settings: dict[str, object] = {name: variables[name] for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH")}
    settings |= {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_TELEMETRY": True}
    settings["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    for name, variable in variables.items():
        monkeypatch.setenv(name, variable)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # used by huggingface_hub.model_info and other functions
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda seconds: None))
    with suppress(ImportError):
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder of models as the Hugging Face hub does.")
    parser.add_argument("folder", type=Path, help="folder with the models, such as FOLDER/acme/tiny")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 selects a free one")
    options = parser.parse_args()
    with HubServer(options.port) as hub, suppress(KeyboardInterrupt):
        for model in options.folder.glob("*/*"):
            if model.is_dir():
                hub.commit(model.relative_to(options.folder).as_posix(), model)
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()

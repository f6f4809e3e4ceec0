"""A stand-in for the Hugging Face hub on loopback, from which the real clients download models and data sets.

Its URLs and headers are those that huggingface_hub 2.4 and datasets 5.2 use, without Xet: redirects of small files to
a path of the hub and of large ones to another host, pages of listings, pull requests, tokens, and the hub's errors. As
a script, it serves a folder of repositories::

    python tests/hub_server.py FOLDER --port 8080   # FOLDER/acme/tiny is a model, FOLDER/datasets/acme/lists a data set
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
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    import pytest  # the script runs without it

# /api/models/REPO[/revision/REVISION], /api/models/REPO/tree/REVISION[/FOLDER], /REPO/resolve/REVISION/FILE, ...
_PATH = re.compile(
    r"/(?:api/)?(?:models/)?(?P<repo>(?:datasets/)?[^/]+(?:/[^/]+)??)(?:/(?P<view>refs|discussions)"
    r"|/(?P<view_of_revision>revision|tree|resolve|paths-info|commits)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_DATE = "2026-05-01T12:00:00.000Z"
#: Endings of the files that the ``.gitattributes`` of a new repository stores as large files, among others.
LARGE = (".safetensors", ".bin", ".gguf", ".model", ".parquet", ".onnx", ".msgpack", ".h5", ".ot", ".pt", ".arrow")


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
    """Files of each commit, and the commits that branches, tags and pull requests point to."""

    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)  # the commit before each commit except the first
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)  # those of the refs that are tags
    refused_status: int | None = None
    token: str = ""  # the token that opens the repository; empty if everybody may read it
    is_private: bool = False  # whether its existence is hidden from those without the token

    def history(self, commit: str) -> list[str]:
        """Return the commit and those before it, newest first."""
        commits = [commit]
        while parent := self.parents.get(commits[-1]):
            commits.append(parent)
        return commits


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

    def __init__(self, port: int = 0, *, page_size: int = 1000) -> None:
        self.port = port
        self.page_size = page_size  #: Maximum number of entries in one page of a listing.
        #: Method and path (with the query) of every request, in order of arrival.
        self.requests: list[tuple[str, str]] = []
        #: The first fault that matches a request applies to it. Remove them to repair the server.
        self.faults: list[Fault] = []
        self._stopped = threading.Event()
        self._repositories: dict[str, Repository] = {}
        #: Contents by the paths to which this server redirects, with their headers.
        self._storage: dict[str, tuple[StoredFile, dict[str, str]]] = {}

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

    def commit(
        self, repo_id: str, files: Path | Mapping[str, bytes | Path], *, branch: str = "main", commit: str = ""
    ) -> str:
        """Store a commit with exactly these files, move the branch to it, and return its id.

        Args:
            repo_id: Repository, created if it is new.
            files: Contents by path, or a folder. The names of large files end as in `LARGE`.
            branch: Branch, created from ``main`` if it is new; ``refs/pr/1`` is an open pull request.
            commit: Id of the commit, if it is that of a real one; by default, a hash of the files.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        stored = {}
        for path, file in sorted(files.items()):
            content = file if isinstance(file, bytes) else file.read_bytes()
            stored[path] = StoredFile(content, is_large=path.endswith(LARGE))
        repository = self._repositories.setdefault(repo_id, Repository())
        parent = repository.refs.get(branch) or repository.refs.get("main")
        identity = [parent, *((path, file.etag) for path, file in stored.items())]
        commit = commit or hashlib.sha1(repr(identity).encode()).hexdigest()
        self._storage |= {f"/storage/{file.etag}": (file, {}) for file in stored.values() if file.is_large}
        repository.commits[commit] = stored
        if parent:
            repository.parents[commit] = parent
        repository.refs[branch] = commit
        return commit

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        """Create a tag that points to a commit."""
        self._repositories[repo_id].refs[name] = commit
        self._repositories[repo_id].tags.add(name)

    def refuse(self, repo_id: str, status: int | None = 403) -> None:
        """Gate a repository: its files get status 401 or 403, its metadata stays public. None opens it again."""
        self._repositories[repo_id].refused_status = status

    def require_token(self, repo_id: str, token: str) -> None:
        """Gate a repository: only requests with this token read its files."""
        self._repositories[repo_id].token = token

    def hide(self, repo_id: str, token: str) -> None:
        """Make a repository private: only requests with this token see it. An empty token makes it public again."""
        self._repositories[repo_id].token, self._repositories[repo_id].is_private = token, bool(token)

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
            "HF_TOKEN": "",
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",  # otherwise, the first request of a process is GET /api/agent-harnesses
        }

    def respond(
        self, target: str, byte_range: str = "", token: str = "", form: Mapping[str, list[str]] = {}
    ) -> Response:
        """Return the response to a GET or POST request. HEAD requests get the same without the body."""
        url = urlsplit(target)
        if unquote(url.path) in self._storage:
            file, headers = self._storage[unquote(url.path)]
            return _send_content(file, byte_range, headers)
        if not (match := _PATH.fullmatch(url.path)):
            return Response(404, {})
        repo_id, view, view_of_revision, revision, path = map(unquote, match.groups(default=""))
        repository = self._repositories.get(repo_id)
        if repository is None or (repository.is_private and token != repository.token):
            if not token:
                return _send_error(401, "RepoNotFound", {}, "Invalid username or password.")
            return _send_error(404, "RepoNotFound", {}, "Repository not found")
        if view:
            return _send_json(_list_refs(repository) if view == "refs" else _list_discussions(repo_id, repository))
        commit = repository.refs.get(revision or "main", revision)
        if (files := repository.commits.get(commit)) is None:
            return _send_error(404, "RevisionNotFound", {}, f"Invalid rev id: {revision}")
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if view_of_revision == "resolve":
            return self._redirect(repo_id, repository, commit, path, token)
        if view_of_revision == "commits":
            return _send_json([_describe_commit(repository, commit) for commit in repository.history(commit)])
        if view_of_revision in ("tree", "paths-info"):
            expands = (form.get("expand") or [query.get("expand", "")])[-1].lower() == "true"
            entries = _list_entries(files, commit if expands else "")
            if view_of_revision == "paths-info":
                paths = {entry.strip("/") for entry in form.get("paths", ())}
                return _send_json([entry for name, entry in entries.items() if name in paths])
            return self._send_tree(target, entries, path, query)
        return _send_json(_describe_repository(repo_id, repository, commit, has_sizes=query.get("blobs") == "true"))

    def _redirect(self, repo_id: str, repository: Repository, commit: str, path: str, token: str) -> Response:
        """Redirect to the content of a file, as the hub does since 2025, also for small files."""
        headers = {"X-Repo-Commit": commit}
        if status := repository.refused_status or (repository.token != token and (403 if token else 401)):
            page = f"https://huggingface.co/{repo_id}"
            text = f"Access to model {repo_id} is restricted" + (
                f" and you are not in the authorized list. Visit {page} to ask for access."
                if status == 403
                else ". You must have access to it and be authenticated to access it. Please log in."
            )
            return _send_error(status, "GatedRepo", headers, text)
        if (file := repository.commits[commit].get(path)) is None:
            return _send_error(404, "EntryNotFound", headers, "Entry not found")
        if not file.is_large:
            location = f"/api/resolve-cache/{repo_id}/{commit}/{path}"
            self._storage[location] = file, headers
            return Response(307, headers | {"Location": quote(location), "ETag": f'"{file.etag}"'})
        headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.etag}"'}
        # To another origin, as on the real hub: the client takes the metadata from the redirect, and drops its token.
        return Response(302, headers | {"Location": f"http://localhost:{self.port}/storage/{file.etag}"})

    def _send_tree(
        self, target: str, entries: Mapping[str, dict[str, Any]], folder: str, query: Mapping[str, str]
    ) -> Response:
        """Send one page of the files and folders in a folder, with a link to the next page."""
        prefix = f"{folder}/" if folder else ""
        inside = [entry for name, entry in entries.items() if name.startswith(prefix)]
        if not inside:
            return _send_error(404, "EntryNotFound", {}, "Entry not found")
        if query.get("recursive", "").lower() != "true":
            inside = [entry for entry in inside if "/" not in entry["path"].removeprefix(prefix)]
        start = int(query.get("cursor", 0))
        response = _send_json(inside[start : start + self.page_size])
        if start + self.page_size < len(inside):
            more = urlencode({**query, "cursor": start + self.page_size})
            response.headers["Link"] = f'<{self.url}{urlsplit(target).path}?{more}>; rel="next"'
        return response


def _send_error(status: int, code: str, headers: dict[str, str], message: str) -> Response:
    body = json.dumps({"error": message}).encode()
    return Response(status, headers | {"X-Error-Code": code, "X-Error-Message": message}, body)


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


def _list_entries(files: Mapping[str, StoredFile], commit: str) -> dict[str, dict[str, Any]]:
    """Return the entries of all files and folders by their paths, with their last commit if one is given."""
    folders = {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}
    entries: dict[str, dict[str, Any]] = {
        path: {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0} for path in folders
    }
    for path, file in files.items():
        entries[path] = {"type": "file", "oid": file.etag[:40], "size": len(file.content)}
        if file.is_large:
            # The tree of the real hub names the SHA-256 oid, the information about a model sha256.
            lfs = {"oid": file.etag, "sha256": file.etag, "size": len(file.content), "pointerSize": 134}
            entries[path]["lfs"] = lfs
    last = {"lastCommit": {"id": commit, "title": "Upload", "date": _DATE}} if commit else {}
    return {path: {"path": path, **entries[path], **last} for path in sorted(entries)}


def _describe_repository(repo_id: str, repository: Repository, commit: str, *, has_sizes: bool) -> dict[str, Any]:
    name = repo_id.removeprefix("datasets/")
    files = repository.commits[commit]
    siblings = [
        {"rfilename": path, **({**entry, "blobId": entry["oid"]} if has_sizes else {})}
        for path, entry in _list_entries(files, "").items()
        if path in files
    ]
    is_gated = bool(repository.refused_status or (repository.token and not repository.is_private))
    about: dict[str, Any] = {
        "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
        "id": name,
        "author": name.partition("/")[0],
    }
    about |= {"sha": commit, "lastModified": _DATE, "createdAt": _DATE, "private": repository.is_private}
    return about | {"gated": is_gated and "manual", "disabled": False, "tags": [], "downloads": 0, "siblings": siblings}


def _describe_commit(repository: Repository, commit: str) -> dict[str, Any]:
    title = "Upload" if commit in repository.parents else "initial commit"
    return {"id": commit, "title": title, "message": "", "authors": [{"user": "acme"}], "date": _DATE}


def _list_refs(repository: Repository) -> dict[str, list[dict[str, str]]]:
    lists: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
    for name, commit in repository.refs.items():
        is_pull_request, is_tag = name.startswith("refs/pr/"), name in repository.tags
        kind = "pullRequests" if is_pull_request else "tags" if is_tag else "branches"
        ref = name if is_pull_request else f"refs/{'tags' if is_tag else 'heads'}/{name}"
        lists[kind].append({"name": name, "ref": ref, "targetCommit": commit})
    return lists


def _list_discussions(repo_id: str, repository: Repository) -> dict[str, Any]:
    """Return the open pull requests, as the bot opens them that converts pickled weights to safetensors."""
    numbers = [int(name.removeprefix("refs/pr/")) for name in repository.refs if name.startswith("refs/pr/")]
    common = {"title": "Adding `safetensors` variant of this model", "status": "open", "isPullRequest": True}
    common |= {"author": {"name": "SFconvertbot"}, "createdAt": _DATE, "repo": {"name": repo_id, "type": "model"}}
    return {"count": len(numbers), "start": 0, "discussions": [{**common, "num": number} for number in numbers]}


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
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        response = self._hub.respond(self.path, self.headers.get("Range", ""), token, form)
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
    do_POST = do_GET

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
    parser = argparse.ArgumentParser(description="Serve a folder of models and data sets as the Hugging Face hub does.")
    parser.add_argument("folder", type=Path, help="folder with the models, such as FOLDER/acme/tiny")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 selects a free one")
    options = parser.parse_args()
    hub = HubServer(options.port)
    models = [path for path in options.folder.glob("*/*") if path.parent.name != "datasets"]
    for repository in filter(Path.is_dir, (*models, *options.folder.glob("datasets/*/*"))):
        hub.commit(repository.relative_to(options.folder).as_posix(), repository)
    with hub, suppress(KeyboardInterrupt):
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()

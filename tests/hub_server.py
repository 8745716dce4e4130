"""A Hub server for tests: the parts of its HTTP interface that uploads and downloads use.

It answers the real `huggingface_hub` client as huggingface.co does (paths, headers, status codes,
large files by redirect to another host) and logs the requests. It does not offer Xet, so the client
falls back to LFS. An unknown request is answered with 501 and logged in `unknown`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"  # tokens
NAME = r"/(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/models{NAME}"


@dataclass
class Repo:
    """Commits of one model: path -> sha256 for large files, path -> content for small ones."""

    private: bool = False
    commits: dict[str, dict[str, str | bytes]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, str | bytes]) -> str:
        self.head = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[self.head] = files
        return self.head

    @property
    def files(self) -> dict[str, str | bytes]:
        """Of the newest commit."""
        return self.commits[self.head]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    file: str | None = None  # whose content was requested
    start: int = 0  # first byte of the requested range


class HubServer(ThreadingHTTPServer):
    """Serves until it is closed; `url` is the endpoint."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}/cdn"  # another host than the Hub's
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}  # sha256 -> content, committed or not
        self.log: list[Request] = []
        self.unknown: list[str] = []
        self.uploads_left: int | None = None  # large files before connections break
        self.cut: dict[str, int] = {}  # file -> bytes after which its next download breaks
        self.lock = Lock()
        Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Does not print an error when a client hangs up."""

    def add(self, name: str, folder: Path, *, private: bool = False) -> Repo:
        """Commits the files of `folder` to a model."""
        repo = self.repos.setdefault(name, Repo(private=private))
        files: dict[str, str | bytes] = {}
        for file in filter(Path.is_file, folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            data = files[name] = file.read_bytes()
            if file.suffix == ".safetensors":
                files[name] = oid = hashlib.sha256(data).hexdigest()
                self.large[oid] = data
        repo.commit(files)
        return repo

    def fetched(self) -> list[str]:
        """Returns the files downloaded since the last call, sorted, and clears the log."""
        with self.lock:
            files = sorted(r.file for r in self.log if r.method == "GET" and r.file)
            self.log.clear()
        return files

    def content(self, repo: Repo, file: str, commit: str | None = None) -> bytes:
        held = repo.commits[commit or repo.head][file]
        return held if isinstance(held, bytes) else self.large[held]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                answer(self, **match.groupdict())
                return
        self.server.unknown.append(f"{self.command} {self.path}")
        self._body()
        self._refuse(501, "not spoken here")

    # plumbing

    def _note(self, file: str | None = None, start: int = 0) -> None:
        with self.server.lock:
            self.server.log.append(Request(self.command, self.path, file, start))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, data: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(data).encode(), Content_Type="application/json", **headers)

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self._json({"error": message}, status, **headers)

    # tokens and repositories

    def _token(self) -> str | None:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ") or None

    def _known(self) -> bool:
        if self._token() in (None, WRITER, READER):
            return True
        self._refuse(401, "Invalid credentials in Authorization header")
        return False

    def _may_write(self) -> bool:
        if self._token() is None:
            self._refuse(401, "Invalid username or password.")
        elif self._known() and self._token() != WRITER:
            self._refuse(403, "You don't have the rights to write to this namespace")
        return self._token() == WRITER

    def _repo(self, name: str, revision: str = "main") -> tuple[Repo, str] | None:
        """Returns the requested model and commit; None if the request was refused."""
        if not self._known():
            return None
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self._token() is None):
            if self._token() is None:  # the Hub does not tell a missing model from a private one
                self._refuse(401, "Invalid username or password.")
            else:
                self._refuse(404, "Repository not found", "RepoNotFound")
            return None
        commit = repo.head if revision == "main" else revision
        if commit not in repo.commits:
            self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return repo, commit

    # upload

    def create(self) -> None:
        self._note()
        request = json.loads(self._body())
        if not self._may_write():
            return
        name = f"{request['organization']}/{request['name']}"
        if name in self.server.repos:
            self._json({"url": f"{self.server.url}/{name}"}, 409)
            return
        private = request.get("private") or request.get("visibility") == "private"
        repo = self.server.repos[name] = Repo(private=bool(private))
        repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._json({"url": f"{self.server.url}/{name}"})

    def validate(self) -> None:
        text = json.loads(self._body())["content"]
        errors = [] if text.startswith("---\n") else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        files = json.loads(self._body())["files"]
        if not self._may_write() or not (opened := self._repo(name, revision)):
            return
        repo, _ = opened
        self._json({"files": [self._mode(repo, file) for file in files]})

    def _mode(self, repo: Repo, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors") or file["size"] > 10 << 20
        held = repo.files.get(file["path"])
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": _git_oid(held) if isinstance(held, bytes) else held,
        }

    def batch(self, name: str) -> None:
        objects = json.loads(self._body())["objects"]
        if not self._may_write() or not self._repo(name):
            return
        for each in objects:
            if each["oid"] not in self.server.large:
                href = f"{self.server.cdn}/{each['oid']}"
                verify = f"{self.server.url}/{name}.git/info/lfs/verify"
                each["actions"] = {"upload": {"href": href}, "verify": {"href": verify}}
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if self.server.uploads_left == 0:
            self.close_connection = True
            self.rfile.read(1)
            return
        data = self._body()
        self._note()
        if hashlib.sha256(data).hexdigest() != oid:
            self._refuse(400, "not what was announced")
            return
        if self.server.uploads_left is not None:
            self.server.uploads_left -= 1
        self.server.large[oid] = data
        self._send(200, ETag=f'"{oid}"')

    def verify(self, name: str) -> None:
        request = json.loads(self._body())
        held = self.server.large.get(request["oid"])
        self._json({}, 200 if held is not None and len(held) == request["size"] else 404)

    def commit(self, name: str, revision: str) -> None:
        self._note()
        lines = [json.loads(line) for line in self._body().splitlines()]
        if not self._may_write() or not (opened := self._repo(name, revision)):
            return
        repo, _ = opened
        files = dict(repo.files)
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.large:
                    self._refuse(400, "a large file was not uploaded")
                    return
                files[value["path"]] = value["oid"]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    # download

    def info(self, name: str, revision: str = "main") -> None:
        self._note()
        if opened := self._repo(name, revision):
            repo, commit = opened
            names = [{"rfilename": file} for file in sorted(repo.commits[commit])]
            self._json({"id": name, "sha": commit, "private": repo.private, "siblings": names})

    def tree(self, name: str, revision: str, folder: str | None = None) -> None:
        self._note()
        if opened := self._repo(name, revision):
            repo, commit = opened
            if folder:
                self._refuse(404, f"{folder} does not exist", "EntryNotFound")
                return
            self._json([self._entry(repo, file, commit) for file in sorted(repo.commits[commit])])

    def _entry(self, repo: Repo, file: str, commit: str) -> dict[str, Any]:
        held, size = repo.commits[commit][file], len(self.server.content(repo, file, commit))
        entry: dict[str, Any] = {"type": "file", "path": file, "size": size}
        if isinstance(held, bytes):
            return entry | {"oid": _git_oid(held)}
        lfs = {"oid": held, "size": size, "pointerSize": 130}
        return entry | {"oid": hashlib.sha1(held.encode()).hexdigest(), "lfs": lfs}

    def resolve(self, name: str, revision: str, file: str) -> None:
        if not (opened := self._repo(name, revision)):
            return
        repo, commit = opened
        held = repo.commits[commit].get(file)
        if held is None:
            self._note()
            self._refuse(404, "Entry not found", "EntryNotFound")
        elif isinstance(held, bytes):
            self._content(file, held, ETag=f'"{_git_oid(held)}"', X_Repo_Commit=commit)
        else:
            self._note()
            self._send(
                302, Location=f"{self.server.cdn}/{held}/{file}", X_Repo_Commit=commit,
                X_Linked_Etag=f'"{held}"', X_Linked_Size=str(len(self.server.large[held])),
            )  # fmt: skip

    def large(self, oid: str, file: str) -> None:
        assert self._token() is None, "a token went to another host than the Hub's"
        self._content(file, self.server.large[oid], ETag=f'"{oid}"')

    def _content(self, file: str, data: bytes, **headers: str) -> None:
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(ranged[1]) if ranged else 0
        self._note(file, start)
        if ranged:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        headers |= {"Content_Length": str(len(part)), "Accept_Ranges": "bytes"}
        if self.command == "GET" and file in self.server.cut:
            part = part[: self.server.cut.pop(file)]
            self.close_connection = True
        self._send(206 if ranged else 200, part, **headers)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET",), "/api/agent-harnesses", lambda self: self._refuse(404, "of no concern here")),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("POST",), rf"{API}/preupload/(?P<revision>.+)", _Handler.preupload),
    (("POST",), rf"{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("POST",), rf"{NAME}\.git/info/lfs/verify", _Handler.verify),
    (("PUT",), r"/cdn/(?P<oid>\w+)", _Handler.upload),
    (("POST",), rf"{API}/commit/(?P<revision>.+)", _Handler.commit),
    (("GET",), rf"{API}/revision/(?P<revision>.+)", _Handler.info),
    (("GET",), API, _Handler.info),
    (("GET",), rf"{API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
    (("GET", "HEAD"), rf"{NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
    (("GET", "HEAD"), r"/cdn/(?P<oid>\w+)/(?P<file>.+)", _Handler.large),
]

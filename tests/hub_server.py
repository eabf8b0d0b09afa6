"""A server on this machine that answers as the hub does, for the hub's own client, and that misbehaves on demand.

It knows models and datasets by name and commit; large files are handed out by another address ("the CDN"), as the hub does,
with their sha256 in `X-Linked-ETag`, small ones directly with git's id of the file as their ETag. It takes uploads as the
hub does from a client without Xet: it is asked which files are large (preupload), these come by LFS, and a commit names
them beside the content of the small ones. Use `HubServer()` as a context. This process asks it after `use`, another one in
the `environment` (HF_ENDPOINT, HF_HOME).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"
LARGE = 1000  # bytes from which on a file is handed out by the CDN


def name_commit(number: int) -> str:
    """The name of a made-up commit."""
    return hashlib.sha1(f"commit {number}".encode()).hexdigest()


def compute_git_id(content: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class HubServer:
    """What stands on the hub, and how it misbehaves.

    commits: (name, commit) -> file -> content. heads: name -> the commit of `main`. gated: names that want a token; of
    `allowed`, those that get in. writers: the tokens that may write. drops: how often the connection breaks halfway, by
    file. flips: files of which a byte is changed on the way. fails: how often the next requests are answered by `code`.
    asked: (method, path, Authorization, Range) of every request, the CDN's with the path `/cdn/...`.
    """

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.heads: dict[str, str] = {}
        self.gated: set[str] = set()
        self.allowed: set[str] = set()
        self.writers: set[str] = set()
        self.uploaded: dict[str, bytes] = {}  # by sha256, before a commit names them
        self.drops: Counter[str] = Counter()
        self.flips: set[str] = set()
        self.fails, self.code = 0, 503
        self.asked: list[tuple[str, str, str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                hub._take(self)

            do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, name: str, files: dict[str, bytes], number: int = 1) -> str:
        """Put files on the hub as a commit of a model (`owner/name`) or `datasets/owner/name`, which `main` then is."""
        commit = name_commit(number)
        self.commits[name, commit], self.heads[name] = dict(files), commit
        return commit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path, token: str = "") -> dict[str, str]:
        """The environment of a process whose hub this is, and whose cache of it is `home`."""
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return {**bare, **own, **({"HF_TOKEN": token} if token else {})}

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: str = "") -> None:
        """Let the hub's client in this process ask this server; it reads the environment only when it is imported."""
        from huggingface_hub import constants

        values = {"ENDPOINT": self.url, "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_DISABLE_XET": True}
        values |= {"HF_TOKEN_PATH": str(home / "token"), "HUGGINGFACE_CO_URL_TEMPLATE": self.url + TEMPLATE}
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", token)

    def paths(self, method: str = "GET") -> list[str]:
        """The paths that were asked for by a method."""
        return [path for how, path, *_ in self.asked if how == method]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path, token = request.path.split("?")[0], request.headers.get("Authorization", "")
        self.asked.append((request.command, path, token, request.headers.get("Range", "")))
        if self.fails:
            self.fails -= 1
            self._send(request, self.code, {}, b"")
        elif path.startswith("/cdn/"):
            _, _, digest, file = path.split("/", 3)
            content = next(c for files in self.commits.values() for c in files.values() if _compute_sha256(c) == digest)
            self._send_file(request, file, content, {"ETag": f'"{digest}"'})
        elif path.startswith("/api/"):
            self._api(request, path)
        else:
            self._resolve(request, path, token)

    def _api(self, request: BaseHTTPRequestHandler, path: str) -> None:
        rest = path.removeprefix("/api/").removeprefix("models/")
        tree = "/tree/" in rest
        name, _, revision = rest.partition("/tree/" if tree else "/revision/")
        commit = self.heads.get(name, "") if revision in ("", "main") else revision
        files = self.commits.get((name, commit))
        if files is None:
            self._missing(request, name)
            return
        siblings, entries = [], []
        for file, content in files.items():
            entry = {"type": "file", "path": file, "size": len(content), "oid": compute_git_id(content)}
            pointer = {"lfs": {"oid": _compute_sha256(content), "size": len(content), "pointerSize": 130}}
            entries.append({**entry, **(pointer if len(content) >= LARGE else {})})
            large = {"lfs": {"sha256": _compute_sha256(content), "size": len(content), "pointerSize": 130}}
            about = {"rfilename": file, "size": len(content), "blobId": compute_git_id(content)}
            siblings.append({**about, **(large if len(content) >= LARGE else {})})
        about = {
            "id": name.removeprefix("datasets/"),
            "sha": commit,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }
        answer = json.dumps(entries if tree else about).encode()
        self._send(request, 200, {"Content-Type": "application/json"}, answer)

    def _resolve(self, request: BaseHTTPRequestHandler, path: str, token: str) -> None:
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit = self.heads.get(name, "") if revision == "main" else revision
        files = self.commits.get((name, commit))
        if files is None or file not in files:
            self._missing(request, name, file if files is not None else "")
            return
        if name in self.gated and token.removeprefix("Bearer ") not in self.allowed:
            code = 403 if token else 401
            self._send(request, code, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b"")
            return
        content, head = files[file], {"X-Repo-Commit": commit}
        if len(content) < LARGE:
            self._send_file(request, file, content, {**head, "ETag": f'"{compute_git_id(content)}"'})
            return
        digest = _compute_sha256(content)
        # another host by name: the client hands no token on to it
        cdn = self.url.replace("127.0.0.1", "localhost")
        head |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._send(request, 302, {**head, "Location": f"{cdn}/cdn/{digest}/{file}"}, b"")

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request that writes."""
        path, token = request.path.split("?")[0], request.headers.get("Authorization", "")
        body = _read_body(request)
        self.asked.append((request.command, path, token, ""))
        if path.startswith("/lfs/"):  # signed by the hub, so without a token
            self._keep(request, path.rpartition("/")[2], body)
        elif path == "/api/validate-yaml":
            self._send_json(request, {"errors": [], "warnings": []})
        elif token.removeprefix("Bearer ") not in self.writers:
            self._send(request, 401, {"X-Error-Message": "Invalid username or password."}, b"")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['type']}s/".replace("models/", "") + f"{asked['organization']}/{asked['name']}"
            code = 409 if name in self.heads else 200
            if code == 200:
                self.publish(name, {}, len(self.commits) + 1)
            self._send_json(request, {"url": f"{self.url}/{name}"}, code)
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._place(each) for each in json.loads(body)["objects"]]
            self._send_json(request, {"transfer": "basic", "objects": objects})
        elif "/preupload/" in path:
            files = [self._sort(each) for each in json.loads(body)["files"]]
            self._send_json(request, {"files": files})
        else:
            name, _, _ = path.removeprefix("/api/").removeprefix("models/").partition("/commit/")
            self._commit(request, name, [json.loads(line) for line in body.splitlines()])

    def _sort(self, asked: dict) -> dict:
        """Whether a file is uploaded by LFS or within the commit."""
        mode = "lfs" if asked["size"] >= LARGE else "regular"
        return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _place(self, asked: dict) -> dict:
        """Where a large file is sent; nowhere if it is here."""
        if asked["oid"] in self.uploaded:
            return asked
        return {**asked, "actions": {"upload": {"href": f"{self.url}/lfs/{asked['oid']}"}}}

    def _keep(self, request: BaseHTTPRequestHandler, digest: str, content: bytes) -> None:
        if _compute_sha256(content) != digest:
            self._send(request, 400, {"X-Error-Message": "the content has another sha256"}, b"")
            return
        self.uploaded[digest] = content
        self._send(request, 200, {}, b"")

    def _commit(self, request: BaseHTTPRequestHandler, name: str, lines: list[dict]) -> None:
        if name not in self.heads:
            self._missing(request, name)
            return
        files = dict(self.commits[name, self.heads[name]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.uploaded[value["oid"]]
        commit = self.publish(name, files, len(self.commits) + 1)
        where = f"{self.url}/{name}/commit/{commit}"
        self._send_json(request, {"success": True, "commitUrl": where, "commitOid": commit, "hookOutput": ""})

    def _send_json(self, request: BaseHTTPRequestHandler, answer: dict, code: int = 200) -> None:
        self._send(request, code, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _missing(self, request: BaseHTTPRequestHandler, name: str, file: str = "") -> None:
        code = "RepoNotFound" if name not in self.heads else "EntryNotFound" if file else "RevisionNotFound"
        self._send(request, 404, {"X-Error-Code": code, "X-Error-Message": "not found"}, b"")

    def _send_file(self, request: BaseHTTPRequestHandler, file: str, content: bytes, head: dict[str, str]) -> None:
        if file in self.flips and request.command == "GET":
            content = content[:-1] + bytes([content[-1] ^ 1])
        first, asked = 0, request.headers.get("Range", "")
        if asked:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            head = {**head, "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        body, cut = content[first:], 0
        if request.command == "GET" and self.drops[file]:
            self.drops[file] -= 1
            cut = len(body) - len(body) // 2
        self._send(request, 206 if asked else 200, {**head, "Accept-Ranges": "bytes"}, body, cut)

    def _send(
        self, request: BaseHTTPRequestHandler, code: int, head: dict[str, str], body: bytes, cut: int = 0
    ) -> None:
        request.send_response(code)
        for key, value in {**head, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body[: len(body) - cut])


def _read_body(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, of a stated length or in chunks."""
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    parts = []
    while size := int(request.rfile.readline(), 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    return b"".join(parts)


def _compute_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

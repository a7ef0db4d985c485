"""A small Hugging Face hub on this machine: what its client asks to make a repository, to commit and to read files.

It keeps every commit, and answers as the hub's API does (huggingface_hub 2): files of a commit by their plain bytes.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

TOKEN = "hf_of_somebody"


@dataclass
class Hub:
    """Repositories by name: their commits in order, each with its files."""

    address: str = ""
    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name][-1]

    def found(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The name of a commit and its files; a commit is called by its number, in forty digits."""
        commits = self.repositories.get(name, [])
        number = len(commits) - 1 if revision == "main" else int(revision, 16) if len(revision) == 40 else -1
        return (f"{number:040x}", commits[number]) if 0 <= number < len(commits) else None


class _Asked(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        name, _, rest = self.path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        found = self.hub.found(name, revision)
        if found is None or file not in found[1]:
            missing = "RepoNotFound" if name not in self.hub.repositories else "EntryNotFound" if found else "Revision"
            return self._say(404, b"", {"X-Error-Code": missing + ("NotFound" if missing == "Revision" else "")})
        data = found[1][file]
        etag = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        return self._say(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})

    def do_GET(self) -> None:
        self.do_HEAD()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.repositories.setdefault(name, [])
            self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self._json({"url": f"{self.hub.address}/{name}"})
        name, _, what = self.path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if what == "preupload":
            given = json.loads(body)["files"]
            return self._json({"files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in given]})
        lines = [json.loads(line) for line in body.splitlines()]
        commits = self.hub.repositories[name]
        added = {v["path"]: base64.b64decode(v["content"]) for v in (x["value"] for x in lines if x["key"] == "file")}
        commits.append({**(commits[-1] if commits else {}), **added})
        made = f"{len(commits) - 1:040x}"
        return self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{made}", "commitOid": made})

    def _json(self, value: object) -> None:
        self._say(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _say(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests say what went wrong."""


@contextmanager
def running(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process takes for the real one, with a cache of its own, and its user signed in."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (_Asked,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("ENDPOINT", hub.address), ("HF_HUB_CACHE", str(cache)), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(constants, name, value)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + template[template.index("/{repo_id}") :]
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

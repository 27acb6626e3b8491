"""A hub on the loopback interface: the few endpoints that creating, committing and downloading really call."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

OID = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory: ``files[repo, revision][path]``; ``seen`` keeps (method, path, token, JSON body)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.seen: list[tuple[str, str, str | None, Any]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Generator[Hub]:
    """A hub that runs for the length of a test and not a moment longer."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join(5)


def pointed_at(hub: Hub, monkeypatch: Any, folder: Path) -> None:
    """Make huggingface_hub talk to this hub, with a cache in ``folder`` and no token of the user's."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    timeout = 5

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode().splitlines()
        bodies = [json.loads(line) for line in lines if line]
        path = self._note(bodies[0] if bodies else None)
        if path == "/api/repos/create":
            return self._create(bodies[0])
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        _, _, _, owner, name, action, revision = path.split("/")
        repo = f"{owner}/{name}"
        if action == "preupload":
            asked = bodies[0]["files"]
            return self._json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        committed = self.server.files.setdefault((repo, unquote(revision)), {})
        for line in bodies:
            if line["key"] == "file":
                committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._json({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{OID}", "commitOid": OID})

    def _create(self, body: dict[str, Any]) -> None:
        repo = f"{body.get('organization', 'me')}/{body['name']}"
        known = repo in self.server.visibility
        self.server.visibility.setdefault(repo, body.get("visibility"))
        self._json({"url": f"{self.server.endpoint}/{repo}"}, status=409 if known else 200)

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, body: bool) -> None:
        parts = self._note(None).strip("/").split("/", 4)
        owner, name, action, revision, file = parts if len(parts) == 5 else ("", "", "", "", "")
        content = self.server.files.get((f"{owner}/{name}", unquote(revision)), {}).get(file)
        if action != "resolve" or content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", OID)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", OID)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _note(self, body: Any) -> str:
        path = urlsplit(self.path).path
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.server.seen.append((self.command, path, token, body))
        return path

    def _json(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

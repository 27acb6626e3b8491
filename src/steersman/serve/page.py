"""The page: static files, and the session that its one-time token gives."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response

from .errors import ApiError
from .security import COOKIE, Gate

STATIC = Path(__file__).parent / "static"
_MISSING = (
    "The page is not part of this installation: it is built from ui/ (npm ci && npm run build) into the package's "
    "serve/static.\nThe API is at /v1.\n"
)
#: Files whose names change with their content.
_HASHED = "assets/"


def add(app: FastAPI, gate: Gate, folder: Path = STATIC) -> None:
    """Serve the page at ``/``."""

    @app.get("/", include_in_schema=False)
    async def index(request: Request, token: str | None = None) -> Response:
        if token is not None:
            session = gate.redeem(token)
            answer = RedirectResponse("/", 303)
            if session is not None:
                answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", path="/")
            return answer
        return _file(folder, "index.html")

    @app.get("/{path:path}", include_in_schema=False)
    async def file(path: str) -> Response:
        return _file(folder, path)


def _file(folder: Path, name: str) -> Response:
    if name.startswith("v1/"):
        raise ApiError(404, "not_found", "there is no such route")
    root = folder.resolve()
    found = (root / name).resolve()
    if not found.is_relative_to(root) or not found.is_file() or any(part.startswith(".") for part in Path(name).parts):
        if name == "index.html":
            return PlainTextResponse(_MISSING, 404)
        raise ApiError(404, "not_found", "there is no such file")
    kept = "public, max-age=31536000, immutable" if name.startswith(_HASHED) else "no-cache"
    return FileResponse(found, headers={"Cache-Control": kept})

"""The page: static files, and the session that its one-time token or a key gives."""

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


def add(app: FastAPI, gate: Gate) -> None:
    """Serve the page at ``/``."""

    @app.get("/", include_in_schema=False)
    async def index(request: Request, token: str | None = None) -> Response:
        if token is not None:
            session = gate.redeem(token)
            answer = RedirectResponse("/", 303)
            return answer if session is None else _with_session(answer, session)
        return _file(STATIC, "index.html")

    @app.post("/session", include_in_schema=False)
    async def session(request: Request) -> Response:
        """Exchange a key for a session; the page forgets the key."""
        return _with_session(Response(status_code=204), gate.admit(request))

    @app.get("/{path:path}", include_in_schema=False)
    async def file(path: str) -> Response:
        return _file(STATIC, path)


def _with_session(answer: Response, session: str) -> Response:
    answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", path="/")
    return answer


def _file(folder: Path, name: str) -> Response:
    found = None if name.startswith("v1/") else _found(folder, name)
    if found is None:
        if name == "index.html":
            return PlainTextResponse(_MISSING, 404)
        raise ApiError(404, "not_found", "there is nothing here")
    kept = "public, max-age=31536000, immutable" if name.startswith(_HASHED) else "no-cache"
    return FileResponse(found, headers={"Cache-Control": kept})


def _found(folder: Path, name: str) -> Path | None:
    """A file in the folder, wherever links lead; None for anything else."""
    if any(part.startswith(".") for part in Path(name).parts):
        return None
    try:
        root = folder.resolve()
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        return None

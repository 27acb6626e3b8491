"""Who may ask, under which name, and from where."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from .errors import ApiError
from .settings import Settings

COOKIE = "steersman_session"
#: Sessions that are known at once.
SESSIONS = 256
#: Paths that anybody may ask for: they say nothing but whether the server lives.
OPEN = ("/health", "/ready")
#: What a browser may be told to fetch, run and show: this server's own, and nothing else.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_READING = ("GET", "HEAD", "OPTIONS")


class Gate:
    """Lets requests in.

    Keys come as ``Authorization: Bearer KEY``; the page has a session in a cookie, which a one-time token in the URL
    that is printed gives it, or a key that is typed in. Compared in constant time.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[str, bool] = {}  # and whether it may change things
        self._token: str | None = secrets.token_urlsafe(24) if settings.ui else None
        self._lock = threading.Lock()

    @property
    def token(self) -> str | None:
        """The token that is good for one session, until it is used."""
        return self._token

    def redeem(self, token: str) -> str | None:
        """A session for a token, or None if it is not, or no longer, good."""
        with self._lock:
            if self._token is None or not _same(token, self._token):
                return None
            self._token = None
        return self._begun(admin=True)

    def admit(self, request: Request) -> str:
        """A session for a request that has a key, which may do what the key may.

        Raises:
            ApiError: 401 without a key of this server's.
        """
        if not self._has_key(request):
            raise ApiError(401, "invalid_api_key", "this is no key of this server's")
        return self._begun(admin=self.is_admin(request))

    def _begun(self, *, admin: bool) -> str:
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[session] = admin
            while len(self._sessions) > SESSIONS:  # the oldest goes
                del self._sessions[next(iter(self._sessions))]
        return session

    def check(self, request: Request) -> None:
        """Refuse what is addressed wrongly, comes from another site, or has no key.

        Raises:
            ApiError: 421, 403, 415 or 401.
        """
        self._check_host(request.headers)
        self._check_origin(request)
        if request.url.path in OPEN or not request.url.path.startswith(("/v1/", "/metrics", "/openapi.json")):
            return
        if not self._settings.api_key or self._has_key(request) or self._session_of(request) is not None:
            return
        given = "is not this server's" if _bearer(request) else "is missing"
        raise ApiError(
            401, "invalid_api_key", f"the key {given}; send Authorization: Bearer KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip

    def is_admin(self, request: Request) -> bool:
        """Whether a request may change vectors and presets, and start jobs."""
        settings = self._settings
        if not settings.api_key and not settings.admin_key:
            return True
        if settings.admin_key and _same(_bearer(request), settings.admin_key):
            return True
        return self._session_of(request) is True

    def _has_key(self, request: Request) -> bool:
        """Whether a request has one of the keys."""
        keys = [key for key in (self._settings.api_key, self._settings.admin_key) if key is not None]
        return any(_same(_bearer(request), key) for key in keys)

    def _session_of(self, request: Request) -> bool | None:
        """Whether the session of a request may change things; None without a session."""
        cookie, found = request.cookies.get(COOKIE, ""), None
        with self._lock:
            known = list(self._sessions.items())
        for session, admin in known:
            found = admin if _same(cookie, session) else found
        return found

    def require_admin(self, request: Request) -> None:
        """Raise 403 unless :meth:`is_admin`."""
        if not self.is_admin(request):
            how = "send the admin key" if self._settings.admin_key else "start the server with an admin key"
            raise ApiError(403, "admin_required", f"this needs the admin scope; {how}")

    def _check_host(self, headers: Mapping[str, str]) -> None:
        name = _host(headers.get("host", ""))
        if name not in self._settings.addressed:
            raise ApiError(
                421,
                "unknown_host",
                f"this server is not called {name[:80]!r}; name it with --allow-host to address it so",
            )

    def _check_origin(self, request: Request) -> None:
        """Browsers say from which page a request comes: only from this server's own."""
        if request.method in _READING:
            return
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise ApiError(403, "cross_origin", "requests from pages of other sites are refused")


def _host(value: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{value}").hostname or "").lower()
    except ValueError:
        return ""


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, own: str) -> bool:
    return hmac.compare_digest(given.encode(), own.encode())


def secured(headers: Any) -> list[tuple[bytes, bytes]]:
    """Response headers with those that protect browsers."""
    have = {name.lower() for name, _ in headers}
    more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    return [*headers, *(item for item in more if item[0] not in have)]

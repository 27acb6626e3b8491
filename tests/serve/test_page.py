"""The page's files, and the session that opens them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.serve.conftest import serving

from steersman.serve import page


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a build leaves, and beside it what nobody may read."""
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>Steersman</title>")
    (folder / "assets" / "main-1234.js").write_text("console.log(1)")
    (folder / ".hidden").write_text("hidden")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(page, "STATIC", folder)
    return folder


def test_a_token_is_good_for_one_session(stocked: Path, built: Path) -> None:
    with serving(stocked, ui=True, api_key="reading-key", admin_key="admin-key-1") as live:
        token = live.app.state.gate.token
        with live.http() as client:
            assert client.get("/v1/models").status_code == 401
            wrong = client.get("/", params={"token": "no"})
            assert "set-cookie" not in wrong.headers
            answer = client.get("/", params={"token": token})
            assert answer.status_code == 303
            assert answer.headers["location"] == "/"
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie.replace("Strict", "strict")
            assert client.get("/v1/models").status_code == 200
            assert client.put("/v1/presets/mine", json={"steering": {"happy": 1}}).status_code == 200
            assert client.delete("/v1/presets/mine").status_code == 200
        with live.http() as other:
            assert "set-cookie" not in other.get("/", params={"token": token}).headers
            assert other.get("/v1/models").status_code == 401


def test_files_of_the_page_and_no_others(stocked: Path, built: Path) -> None:
    with serving(stocked, ui=True) as live, live.http() as client:
        home = client.get("/")
        assert home.status_code == 200
        assert home.headers["content-type"].startswith("text/html")
        policy = home.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "unsafe" not in policy
        assert home.headers["x-content-type-options"] == "nosniff"
        script = client.get("/assets/main-1234.js")
        assert "javascript" in script.headers["content-type"]
        assert "immutable" in script.headers["cache-control"]
        for path in ("/.hidden", "/link.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt",
                     "//etc/passwd", "/nothing.js", "/v1/nothing", "/%00"):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code == 404, path
            assert "secret" not in answer.text


def test_without_a_build_it_says_how_to_make_one(
    stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "STATIC", tmp_path)
    with serving(stocked, ui=True) as live, live.http() as client:
        answer = client.get("/")
        assert answer.status_code == 404
        assert "npm run build" in answer.text
    with serving(stocked) as live, live.http() as client:
        assert client.get("/").status_code == 404

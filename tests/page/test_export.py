"""Each export, taken out of the page and used."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.page.conftest import BASELINE, PATIENCE, PROMPT, STEERED, Open, Seen, answer, card, settled
from tests.serve.conftest import Live

import steersman as sm
from steersman import cli


@pytest.fixture
def exporting(visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.chdir(tmp_path)
    page = visit()
    page.get_by_role("button", name="Export").click()
    return page


def code(page: Page, name: str, form: str) -> str:
    page.get_by_role("dialog").get_by_role("button", name=name, exact=True).click()
    shown = page.locator(f'.code[data-format="{form}"]')
    expect(shown).not_to_have_text("", timeout=PATIENCE)
    return shown.text_content() or ""


def command_says(words: list[str]) -> str:
    """What a command of ours prints, as JSON."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.run([*words[1:], "--json"])
    assert code == 0, said.getvalue()
    return said.getvalue()


def saved(page: Page, file: str, name: str) -> Path:
    with page.expect_download() as download:
        page.locator(f'[data-file="{file}"]').click()
    assert download.value.suggested_filename == name
    download.value.save_as(name)
    return Path(name)


def test_code_and_commands_give_the_text_of_the_page(exporting: Page, live: Live) -> None:
    page, wanted = exporting, answer(exporting, STEERED)
    saved(page, "vector:happy", "happy.safetensors")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code(page, "Python", "python"), {})
    assert said.getvalue().rstrip("\n") == wanted

    words = shlex.split(code(page, "Command line", "cli"))
    assert words[0] == "steer"
    assert json.dumps(wanted) in command_says(words)

    recipe = code(page, "Recipe", "recipe")
    Path("recipe.toml").write_text(recipe)
    (row,) = json.loads(command_says(["steer", "run", "recipe.toml"]))["generation"]["results"]
    assert (row["steered"], row["unsteered"]) == (wanted, answer(page, BASELINE))

    line = code(page, "curl", "curl")
    told = subprocess.run(["bash", "-c", line.replace("curl ", "curl -s ", 1)], capture_output=True, check=True)
    assert json.loads(told.stdout)["choices"][0]["text"] == wanted

    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == line


def test_files_are_loaded_back(exporting: Page, live: Live) -> None:
    wanted = answer(exporting, STEERED)
    plan = sm.Plan.load(saved(exporting, "safetensors", "plan.safetensors"))
    assert live.model.generate(PROMPT, steer=plan, max_new_tokens=24) == wanted


def test_a_control_vector_acts_on_every_token_or_is_refused(
    visit: Open, live: Live, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = visit()
    page.get_by_role("button", name="Export").click()
    page.locator('[data-file="gguf"]').click()
    expect(page.get_by_role("alert")).to_contain_text(
        "llama.cpp adds a control vector at every token", timeout=PATIENCE
    )
    assert [trouble for trouble in seen.troubles if "400" not in trouble] == []  # the browser notes the refusal
    seen.troubles.clear()
    page.keyboard.press("Escape")
    page.locator(".card summary").first.click()
    card(page, "happy").get_by_label("Tokens").select_option("all")
    settled(page)
    page.get_by_role("button", name="Export").click()
    loaded = sm.SteeringVector.load(saved(page, "gguf", "plan.gguf"))
    assert (loaded[8] - live.vector("happy")[8]).abs().max() < 1e-6


@pytest.mark.usefixtures("swept")
def test_the_report_is_one_file(exporting: Page) -> None:
    text = saved(exporting, "html", "report.html").read_text(encoding="utf-8")
    assert "<svg" in text
    assert not re.search(r"(src|href)=[\"']?https?:", text)


def test_a_checkpoint_does_what_the_page_does(visit: Open, live: Live) -> None:
    page = visit()
    page.locator(".card summary").first.click()
    card(page, "happy").get_by_label("Tokens").select_option("all")
    settled(page)
    with live.http() as client:
        body = {"prompt": PROMPT, "max_tokens": 24, "seed": 0, "steering": {
            "interventions": [{"vector": "happy", "strength": 1, "layers": [8], "positions": "all"}]}}  # fmt: skip
        wanted = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    expect(page.locator(f"{STEERED} .answer")).to_have_attribute("data-answer", wanted, timeout=PATIENCE)
    page.get_by_role("button", name="Export").click()
    page.get_by_label("Name of the checkpoint").fill("cheerful")
    page.locator('[data-file="checkpoint"]').click()
    expect(page.get_by_role("status").filter(has_text="Written to")).to_be_visible(timeout=PATIENCE)
    baked = sm.SteeringModel.from_pretrained(str(live.settings.folder / "checkpoints" / "cheerful"))
    assert baked.generate(PROMPT, max_new_tokens=24) == wanted

"""``steer skill``: what coding agents are told is short, and works as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from steersman import cli
from steersman.cli.skill import text

BLOCKS = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)


def test_it_is_written_where_agents_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["skill", "install", "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    assert cli.run(["skill", "install"]) == 0
    written = tmp_path / ".agents/skills/steersman/SKILL.md"
    assert written.read_text(encoding="utf-8") == text()
    assert cli.run(["skill", "install"]) == 0  # the same again is no conflict
    written.write_text("mine", encoding="utf-8")
    assert cli.run(["skill", "install"]) == 2
    assert "--force" in capsys.readouterr().err
    assert written.read_text(encoding="utf-8") == "mine"
    assert cli.run(["skill", "install", "--force"]) == 0
    assert written.read_text(encoding="utf-8") == text()


def test_it_is_printed_word_for_word(capsys) -> None:
    assert cli.run(["skill", "show"]) == 0
    assert capsys.readouterr().out.strip() == text().strip()


def test_it_is_short_and_every_command_in_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert len(text().splitlines()) <= 200
    assert re.match(r"---\nname: steersman\ndescription: .{80,1024}\n---\n", text())
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(f"The {thing} was" for thing in WORDS), encoding="utf-8")
    names: dict[str, object] = {}
    ran = 0
    for language, code in BLOCKS.findall(text()):
        if language == "python":
            exec(compile(code, "SKILL.md", "exec"), names)
            ran += 1
            continue
        for line in code.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "steer"
            assert cli.run(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
            ran += 1
    assert ran == 12
    assert Path("mood.gguf").exists()


WORDS = ["movie", "hotel", "song", "lamp", "book", "room", "garden", "coat", "soup", "play"]

"""The command lines of the README, run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.serve.conftest import Live

README = Path(__file__).parents[2] / "README.md"
PAGE = Path(__file__).parents[2] / "docs" / "serving" / "server.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", [README, PAGE], ids=lambda page: page.name)
def test_curl_lines_work(live: Live, page: Path) -> None:
    commands = re.findall(r"(?ms)^    (curl (?:-N )?http://127\.0\.0\.1:8000.*?[^\\])$", page.read_text())
    assert commands
    for command in commands:
        line = command.replace(":8000", f":{live.port}").replace("curl ", "curl -sS --fail ", 1)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        assert '"choices":[' in done.stdout
        assert ("data: [DONE]" in done.stdout) == ('"stream": true' in command)

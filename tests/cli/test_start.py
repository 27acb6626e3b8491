"""What happens before a command runs: help, version, usage, settings."""

from __future__ import annotations

import subprocess
import sys

import pytest

import steersman

COMMANDS = ("demo", "extract", "generate", "chat", "doctor", "version")


def test_help_and_import_load_neither_torch_nor_transformers() -> None:
    script = """
import sys, steersman
from steersman import cli
assert cli.run(["--help"]) == 0 and cli.run(["generate", "--help"]) == 0 and cli.run(["--version"]) == 0
heavy = {"torch", "transformers", "numpy", "scipy", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert f"steersman {steersman.__version__}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_shared_options(steer, command) -> None:
    found = steer(command, "--help", COLUMNS="100")
    assert found.code == 0
    for option in (
        "--json",
        "--dry-run",
        "--quiet",
        "--verbose",
        "--seed",
        "--device",
        "--dtype",
        "--offline",
        "--config",
    ):
        assert option in found.out


def test_version_in_all_three_forms(steer) -> None:
    assert steer("--version").out == steer("version").out == f"steersman {steersman.__version__}\n"
    document = steer("version", "--json").json
    assert document["schema"] == "steersman.version/1"
    assert {"python", "torch", "transformers"} <= set(document["versions"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing argument"),
        (["generate", "demo", "x", "--nonsense"], "No such option: --nonsense"),
        (["steal"], "No such command"),
        (["generate", "demo", "x", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["generate", "demo", "x", "--max-new-tokens", "0"], "max-new-tokens"),
    ],
)
def test_wrong_usage_is_exit_2_with_the_help_to_ask_for(steer, arguments, message) -> None:
    found = steer(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert message in found.err
    assert "fix: steer" in found.err
    assert "--help" in found.err


def test_no_command_shows_the_help(steer) -> None:
    found = steer()
    assert "extract" in found.out + found.err


class TestSettings:
    def seed(self, steer, *arguments: object, **environment: str) -> int:
        return steer("generate", *arguments, "--json", **environment).json["seed"]

    def test_flags_beat_variables_beat_the_file_beat_defaults(self, steer, model, tmp_path) -> None:
        file = tmp_path / "x.toml"
        file.write_text("seed = 3\n[generate]\nmax-new-tokens = 2\n")
        assert self.seed(steer, model, "the") == 0
        assert self.seed(steer, model, "the", "--config", file) == 3
        assert self.seed(steer, model, "the", "--config", file, STEERSMAN_SEED="4") == 4
        assert self.seed(steer, model, "the", "--config", file, "--seed", 5, STEERSMAN_SEED="4") == 5

    def test_a_table_of_the_command_and_its_own_variables(self, steer, model, tmp_path) -> None:
        file = tmp_path / "x.toml"
        file.write_text("[generate]\nmax-new-tokens = 2\n[extract]\nmethod = 'mean_difference'\n")
        settings = steer("generate", model, "the", "--config", file, "--json").json["settings"]
        assert settings["max_new_tokens"] == 2
        again = steer("generate", model, "the", "--config", file, "--json", STEERSMAN_GENERATE_MAX_NEW_TOKENS="3")
        assert again.json["settings"]["max_new_tokens"] == 3

    def test_the_file_may_come_from_a_variable_and_hold_vectors(self, steer, model, vectors, tmp_path) -> None:
        file = tmp_path / "x.toml"
        file.write_text(f"json = true\n[generate]\nvectors = '{vectors}'\nvector = ['glad:2@0']\nmax_new_tokens = 2\n")
        plan = steer("generate", model, "the", STEERSMAN_CONFIG=str(file)).json["plan"]
        assert plan["interventions"][0]["strength"] == 2
        assert plan["interventions"][0]["layers"] == [0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sed = 1", "unknown key 'sed' at the top"),
            ("[generate]\nmax_new_token = 1", "unknown key 'max_new_token' in [generate]"),
            ("[generates]\nx = 1", "unknown key 'generates' at the top"),
            ("seed = ", "is no TOML file"),
        ],
    )
    def test_a_wrong_file_is_refused_by_name(self, steer, model, tmp_path, text, message) -> None:
        file = tmp_path / "x.toml"
        file.write_text(text)
        found = steer("generate", model, "the", "--config", file)
        assert found.code == 2
        assert message in found.err

    def test_did_you_mean_and_missing_file(self, steer, tmp_path) -> None:
        file = tmp_path / "x.toml"
        file.write_text("[generate]\nmax_new_token = 1")
        assert "did you mean 'max_new_tokens'?" in steer("generate", "demo", "the", "--config", file).err
        assert "there is no configuration file" in steer("generate", "demo", "the", "--config", "none.toml").err

    def test_a_value_of_the_wrong_type_is_exit_2(self, steer, model, tmp_path) -> None:
        file = tmp_path / "x.toml"
        file.write_text("seed = 'three'")
        assert steer("generate", model, "the", "--config", file).code == 2


def test_interrupting_is_exit_130(steer, monkeypatch, model) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steersman.cli.models.load", interrupt)
    found = steer("generate", model, "the")
    assert found.code == 130
    assert "Traceback" not in found.err


def test_a_surprise_is_exit_1_and_a_traceback_on_request(steer, monkeypatch, model) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("steersman.cli.models.load", fail)
    found = steer("generate", model, "the")
    assert found.code == 1
    assert "the disk is on fire" in found.err
    assert "Traceback" not in found.err
    assert "Traceback" in steer("generate", model, "the", "--verbose").err

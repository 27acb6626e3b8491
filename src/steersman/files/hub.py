"""Sharing a native file on the Hugging Face hub, with a model card, and getting it back."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import FileFormatError

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def push(
    repo_id: str,
    filename: str,
    save: Callable[[str], object],
    card: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
) -> str:
    """Create the repository if need be and upload the file that ``save(path)`` writes, with its card.

    Returns:
        The URL of the commit.
    """

    def write(folder: str) -> None:
        save(str(Path(folder) / filename))
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")

    message = f"Upload {filename} with steersman"
    return push_folder(
        repo_id, write, message, private=private, token=token, commit_message=commit_message, revision=revision
    )


def push_folder(
    repo_id: str,
    write: Callable[[str], object],
    message: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
) -> str:
    """Create the repository if need be and upload what ``write(folder)`` writes; returns the URL of the commit."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        write(folder)
        return str(
            api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=commit_message or message, revision=revision
            ).commit_url
        )


def locate(
    repo_or_path: str,
    filename: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
) -> str:
    """The local path of a shared file: a file as it is, ``filename`` in a folder, or downloaded from the hub."""
    local = Path(repo_or_path)
    if local.is_file():
        return str(local)
    if local.is_dir():
        if not (local / filename).is_file():
            raise FileFormatError(f"the folder {local} holds no {filename}")
        return str(local / filename)
    from huggingface_hub import hf_hub_download

    return hf_hub_download(repo_or_path, filename, revision=revision, token=token, cache_dir=cache_dir)


def card(
    title: str,
    base_model: str | None,
    facts: Sequence[tuple[str, object]],
    usage: str,
    *,
    about: str | None = None,
    library: str = "steersman",
) -> str:
    """A model card: front matter, what it is, how to use it with which library."""
    kind = "steering-vector" if library == "steersman" else "edited-model"
    lines = ["---", f"library_name: {library}", f"tags: [steersman, activation-steering, {kind}]"]
    lines += [f"base_model: {base_model}"] if base_model and _REPO.fullmatch(base_model) else []
    lines += ["---", "", f"# {_inline(title)}", "", *([about, ""] if about else []), "| | |", "|---|---|"]
    lines += [f"| {_inline(name)} | {_inline(value)} |" for name, value in facts if value is not None]
    return "\n".join([*lines, "", "```python", usage.strip(), "```", ""])


def _inline(value: object) -> str:
    """Text that stays within its line and its cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")

"""``steer vectors``: the files that hold vectors: what there is, what is in one, sharing, and making one of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import lookup
from . import vector_text as say
from .arguments import Folder, checked_file, own
from .failures import InputError
from .session import Run

if TYPE_CHECKING:
    from ..vector import SteeringVector


Named = Annotated[str, typer.Argument(metavar="VECTOR", help="NAME, PATH (any format that is read), or ORG/REPO.")]
Local = Annotated[str, typer.Argument(metavar="VECTOR", help="NAME, or PATH of any format that is read.")]
Repository = Annotated[str, typer.Argument(metavar="ORG/REPO", help="A repository of the Hugging Face hub.")]
Revision = Annotated[
    str | None, own("--revision", metavar="NAME", help="A branch, tag or commit.", show_default="main")
]
Written = Annotated[
    Path | None, own("--output", "-o", metavar="FILE", help="The file to write.", show_default="NAME.safetensors")
]


def ls(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to look in.")] = Path("."),
) -> None:
    """List the vectors in a folder, and those packaged with the embedded model."""
    from ..demo import VECTORS
    from ..errors import SteersmanError
    from ..vector import SteeringVector

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", fix="name one that holds vectors")
    found: list[tuple[Path, SteeringVector]] = []
    unread: dict[str, str] = {}
    for path in lookup.here(folder):
        try:
            found.append((path, SteeringVector.load(path)))
        except (SteersmanError, OSError) as error:
            unread[path.name] = str(error).splitlines()[0]
    if run.json_:
        rows = [{"file": path.name, **say.summary(vector)} for path, vector in found]
        run.emit("steersman.vectors/1", {"folder": str(folder), "vectors": rows, "packaged": VECTORS, "other": unread})
        return
    say.listing(run, folder, found, unread)


def info(run: Run, vector: Named, folder: Folder = Path(".")) -> None:
    """Say everything that a vector's file holds: layers, origin, method, and its measured quality."""
    found = lookup.find(run, vector, folder, None)
    if run.json_:
        run.emit("steersman.vector/1", say.document(found))
        return
    say.whole(run, found)


def pull(run: Run, repository: Repository, revision: Revision = None, output: Written = None) -> None:
    """Get a vector from the Hugging Face hub and save it as a file."""
    from ..vector import SteeringVector

    target = output or Path(f"{repository.rpartition('/')[2]}.safetensors")
    checked_file(target, ".safetensors", "vectors are saved in")
    _check_repository(repository)
    if run.dry_run:
        run.out.print(f"would download {repository} to {target}", markup=False, soft_wrap=True)
        run.note("dry run: nothing was done")
        return
    try:
        with run.working(f"downloading {repository}"):
            found = SteeringVector.from_pretrained(repository, revision=revision)
    except OSError as error:
        raise lookup.not_on_hub(repository, error) from error
    _save(run, found, target, {"repository": repository, "revision": revision})


def push(
    run: Run,
    vector: Local,
    repository: Repository,
    private: Annotated[bool, own("--private", metavar="", help="Create the repository as a private one.")] = False,
    message: Annotated[
        str | None, own("--message", metavar="TEXT", help="Of the commit.", show_default="a short one")
    ] = None,
    folder: Folder = Path("."),
) -> None:
    """Upload a vector to the Hugging Face hub, with a model card. Needs HF_TOKEN or `hf auth login`."""
    path = lookup.local(vector, folder)
    if path is None:
        raise InputError(f"there is no vector {vector} here", fix="name a file, or a NAME in --vectors")
    _check_repository(repository)
    found = lookup.find(run, vector, folder, None)
    if run.dry_run:
        say.whole(run, found)
        run.out.print(f"would upload {path} to {repository}, with a model card", markup=False, soft_wrap=True)
        run.note("dry run: nothing was done")
        return
    if run.offline:
        raise InputError("--offline allows no upload", fix="leave --offline out")
    try:
        with run.working(f"uploading to {repository}"):
            url = found.push_to_hub(repository, private=private or None, commit_message=message)
    except OSError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{repository} could not be written", why=first, fix="check the name, the network, and HF_TOKEN", code=1
        ) from error
    if run.json_:
        run.emit("steersman.push/1", {"vector": say.summary(found), "repository": repository, "url": url})
        return
    run.out.print(f"uploaded {url}", markup=False, soft_wrap=True)


def orthogonalize(
    run: Run,
    vector: Named,
    others: Annotated[
        list[str], typer.Argument(metavar="OTHER...", help="What is taken out of it, layer by layer: their whole span.")
    ],
    output: Written = None,
    name: Annotated[
        str | None, own("--name", metavar="NAME", help="What to call it.", show_default="VECTOR without OTHER")
    ] = None,
    folder: Folder = Path("."),
) -> None:
    """Save a vector without its part along others, so that it no longer does what they do."""
    from dataclasses import replace

    mine = lookup.find(run, vector, folder, None)
    taken = [lookup.find(run, other, folder, None) for other in others]
    found = mine.orthogonalize(*taken)
    found = found if name is None else replace(found, name=name)
    target = output or Path(f"{'-'.join((found.name or 'vector').split())}.safetensors")
    checked_file(target, ".safetensors", "vectors are saved in")
    if run.dry_run:
        say.kept(run, mine, found)
        run.out.print(f"would save {target}", markup=False, soft_wrap=True)
        run.note("dry run: nothing was done")
        return
    if not run.json_:
        say.kept(run, mine, found)
    _save(run, found, target, {"kept": say.shares(mine, found)})


def _save(run: Run, vector: SteeringVector, target: Path, details: dict[str, Any]) -> None:
    vector.save(target)
    run.record(target, details={"vector": say.summary(vector), **details})
    if run.json_:
        run.emit("steersman.vector/1", {**say.document(vector), **details, "output": target})
        return
    run.out.print(f"saved {target}", markup=False, soft_wrap=True)


def _check_repository(name: str) -> None:
    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"{name} is no repository of the hub", fix="write ORG/REPO, such as me/happy")


#: name -> function, in the order of the help
VECTORS = {"ls": ls, "info": info, "pull": pull, "push": push, "orthogonalize": orthogonalize}

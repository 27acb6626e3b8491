"""A vector as the command line names it: a path, a name in a folder, a packaged one, or a repository on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from .failures import InputError

if TYPE_CHECKING:
    from ..model import SteeringModel
    from ..vector import SteeringVector
    from .session import Run

#: Endings of files that hold vectors, in the order in which a bare name is tried.
ENDINGS = (".safetensors", ".gguf", ".svec", ".pt")


def find(run: Run, name: str, folder: Path, model: SteeringModel | None) -> SteeringVector:
    """A vector by path, by name in a folder, packaged with the demo (which needs the model), or on the hub.

    Files and folders of other libraries are read as well as our own; nothing in them is executed.

    Raises:
        InputError: there is none, with what is there instead.
    """
    from ..vector import SteeringVector

    path = local(name, folder)
    if path is not None:
        run.inputs += files_of(path)
        return SteeringVector.load(path)
    if is_packaged(name, folder) and model is not None:
        from .. import demo

        pairs = demo.pairs(demo.VECTORS[name])
        run.note(f"{name}: extracted from {len(pairs)} packaged pairs")
        with run.working(f"extracting {name}"):
            return demo.vector(name, model)
    if name.count("/") == 1 and not name.endswith(ENDINGS) and not name.startswith((".", "/")):
        return _from_hub(name)
    raise _missing(name, folder)


def local(name: str, folder: Path) -> Path | None:
    """The file or folder that a name means, if there is one."""
    own = Path(name).expanduser()
    places = [own, own / "vector.safetensors"] if own.suffix in ENDINGS or len(own.parts) > 1 else []
    places += [folder / f"{name}{ending}" for ending in ENDINGS]
    places += [folder / name / "vector.safetensors", folder / name]
    return next((path for path in places if path.is_file() or _is_vector_folder(path)), None)


def files_of(path: Path) -> list[Path]:
    """The files that a vector is read from."""
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())


def is_packaged(name: str, folder: Path) -> bool:
    """Whether a name means a packaged vector, no file of that name being there."""
    from ..demo import VECTORS

    return name in VECTORS and local(name, folder) is None


def here(folder: Path) -> list[Path]:
    """The files and folders that hold vectors in a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in ENDINGS or _is_vector_folder(path))


def _is_vector_folder(path: Path) -> bool:
    if not path.is_dir():
        return False
    from ..files.formats import is_vector_folder

    return is_vector_folder(path)


def _from_hub(name: str) -> SteeringVector:
    from ..vector import SteeringVector

    try:
        return SteeringVector.from_pretrained(name)
    except OSError as error:
        raise not_on_hub(name, error) from error


def not_on_hub(name: str, error: Exception) -> InputError:
    """What to say when a repository cannot be had."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"no vector {name}",
        why=f"there is no such file here, and the hub says: {first}",
        fix="check the name, the network, and HF_TOKEN if it is private",
    )


def _missing(name: str, folder: Path) -> InputError:
    from ..demo import VECTORS

    if name.endswith(ENDINGS) or Path(name).parent != Path("."):
        path = Path(name)
        close = get_close_matches(path.name, [found.name for found in here(path.parent)], 1)
        fix = f"did you mean {path.parent / close[0]}?" if close else "check the path"
        return InputError(f"there is no vector file {name}", fix=fix)
    there = list(dict.fromkeys(path.stem for path in here(folder)))
    close = get_close_matches(name, [*there, *VECTORS], 1)
    where = "the current folder" if folder == Path(".") else str(folder)
    why = f"in {where}: {_listed(there)}; packaged: {', '.join(VECTORS)}"
    fix = f"did you mean {close[0]!r}?" if close else "name one of these, a file, or extract one with: steer extract"
    return InputError(f"there is no vector {name!r}", why=why, fix=fix)


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:8])
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if shown else "none"

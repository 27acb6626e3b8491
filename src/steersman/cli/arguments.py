"""Arguments and options that several commands have, each with one meaning everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .failures import InputError


def own(*names: str, **more: Any) -> Any:
    """An option whose environment variable help does not mention; the prefix of the command is enough to know it."""
    return typer.Option(*names, show_envvar=False, **more)


READS = 'last, mean, response, answer, after("text"), or the index of a token, such as -2.'

Model = Annotated[str, typer.Argument(metavar="MODEL", help="demo, a folder, or a Hugging Face id.")]
Layers = Annotated[str, own("--layers", metavar="LAYERS", help="all, 4-8, or 3,5.")]
AutoLayers = Annotated[str, own("--layers", metavar="LAYERS", help="auto, all, 4-8, or 3,5.")]
Site = Annotated[
    str | None,
    own(
        "--site",
        metavar="SITE",
        help="The component that is read.",
        show_default="the method's own, else resid_post",
    ),
]
Read = Annotated[
    str | None,
    own("--read", metavar="WHERE", help=READS, show_default="the method's own, else last"),
]
Folder = Annotated[Path, own("--vectors", metavar="DIR", help="Where a NAME is looked up first.")]
Chart = Annotated[
    Path | None,
    own("--chart", metavar="FILE", help="Draw it, layer by layer, as an .svg figure."),
]


def token_of(read: str | None) -> str | int | None:
    """``--read`` as the library takes it: an index is a number."""
    return int(read) if read is not None and read.removeprefix("-").isdigit() else read


def layers_of(text: str) -> str | list[int]:
    """``all``, ``4-8``, ``3,5`` or a mixture of the last two.

    Raises:
        InterventionError: anything else.
    """
    from ..errors import InterventionError
    from ..sites import layer_indices

    if "," not in text:
        layer_indices(text)
        return text
    found: list[int] = []
    for part in text.split(","):
        indices = layer_indices(part.strip())
        if indices is None:
            raise InterventionError(f"--layers {text!r}: all stands alone")
        found += indices
    return found


def checked_file(output: Path | None, suffix: str, what: str, flag: str = "-o") -> Path | None:
    """The file to write, of the right ending and in a folder that exists.

    Raises:
        InputError: it is neither.
    """
    if output is None:
        return None
    if output.suffix != suffix:
        raise InputError(
            f"{flag} {output} must end in {suffix}",
            why=f"that is the format {what}",
            fix=f"{flag} {output.with_suffix(suffix)}",
        )
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")
    return output

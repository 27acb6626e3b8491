"""``steer analyze``: what a direction is: its length, the tokens it writes, how texts lie along it, what it is like."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import analyze_text as say
from . import lookup
from .arguments import Folder, own
from .failures import InputError
from .session import Run, as_json

if TYPE_CHECKING:
    from ..analysis import CosineMatrix, Geometry, Lens, Projections
    from ..model import SteeringModel
    from ..vector import SteeringVector


Vectors = Annotated[
    list[str],
    typer.Argument(
        metavar="VECTOR...", help="One or more: NAME, PATH or ORG/REPO; several are compared with one another."
    ),
]
ModelName = Annotated[str | None, own("--model", "-m", metavar="MODEL", help="demo, a folder, or a Hugging Face id.")]
Layer = Annotated[
    int | None, own("--layer", metavar="N", help="Which layer to look at.", show_default="each vector's chosen one")
]
Text = Annotated[
    list[str] | None, own("--text", metavar="TEXT", help="Show how this text lies along them, token by token. Repeat.")
]
Prompt = Annotated[
    str | None,
    own(
        "--prompt",
        metavar="TEXT",
        help="Measure what adding them changes after this prompt, instead of the direct path to the logits.",
    ),
]
Pairs = Annotated[
    str | None,
    own("--pairs", metavar="FILE", help="Show where these contrast pairs lie (.jsonl, .csv, or a packaged set)."),
]
Top = Annotated[int, own("--top", "-k", metavar="K", min=1, help="Tokens on either side.")]
Norm = Annotated[
    str, own("--norm", metavar="NORM", help="gain (weighed by the final norm) or none, for the direct path.")
]
Output = Annotated[
    Path | None,
    own("--output", "-o", metavar="DIR", help="Also write the charts (.svg) and analysis.json into this folder."),
]


@dataclass
class Analysis:
    """What was found about one vector, or about several.

    Attributes:
        vectors: them, in the order given, by name.
        layers: name -> the layer looked at.
        lenses, projections, geometries: by name; projections of each text.
        cosines: of all with one another, if they are several.
    """

    vectors: dict[str, SteeringVector]
    layers: dict[str, int]
    lenses: dict[str, Lens] = field(default_factory=lambda: {})
    projections: dict[str, list[Projections]] = field(default_factory=lambda: {})
    geometries: dict[str, Geometry] = field(default_factory=lambda: {})
    cosines: CosineMatrix | None = None


def analyze(
    run: Run,
    vectors: Vectors,
    model: ModelName = None,
    folder: Folder = Path("."),
    layer: Layer = None,
    text: Text = None,
    prompt: Prompt = None,
    pairs: Pairs = None,
    top: Top = 10,
    norm: Norm = "gain",
    output: Output = None,
) -> None:
    """Look at directions: how long they are, what they write, and what they are like.

    Every list of tokens stands beside what random directions of the same length write.
    """
    if model is None:
        raise InputError(
            "no model given", why="a direction means something in its model only", fix="--model demo, or another"
        )
    if norm not in ("gain", "none"):
        raise InputError(f"--norm {norm} is unknown", fix="use gain or none")
    target = _folder(output)
    if run.dry_run:
        say.plan(run, model, vectors, text or [], prompt, pairs, target)
        return
    loaded = run.load(model)
    found = _chosen({name: lookup.find(run, name, folder, loaded) for name in vectors}, layer, loaded)
    with run.working("looking"):
        _look(run, loaded, found, texts=text or [], prompt=prompt, pairs=pairs, top=top, norm=norm)
    document = say.document(run, found)
    written = [] if target is None else _write(run, found, document, target)
    if run.json_:
        run.emit("steersman.analyze/1", document)
        return
    say.result(run, found)
    if target is not None:
        run.out.print(f"wrote {len(written)} files to {target}", markup=False, soft_wrap=True)


def _folder(output: Path | None) -> Path | None:
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"-o {output} is a file", why="several charts are written", fix="name a folder")
    if output is not None and not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")
    return output


def _chosen(named: dict[str, SteeringVector], layer: int | None, model: SteeringModel) -> Analysis:
    """The vectors under the names they have, and the layer of each."""
    vectors: dict[str, SteeringVector] = {}
    for given, vector in named.items():
        vector.check(model.shape)
        name = vector.name or Path(given).stem
        vectors[given if name in vectors else name] = vector
    layers: dict[str, int] = {}
    for name, vector in vectors.items():
        chosen = layer if layer is not None else vector.layer
        if chosen is None and len(vector) == 1:
            chosen = vector.layers[0]
        if chosen is None:
            raise InputError(
                f"{vector.label} has no chosen layer",
                why="its quality was not measured",
                fix=f"--layer N, one of {', '.join(map(str, vector.layers))}",
            )
        if chosen not in vector:
            raise InputError(
                f"{vector.label} has no layer {chosen}", fix=f"use one of {', '.join(map(str, vector.layers))}"
            )
        layers[name] = chosen
    return Analysis(vectors, layers)


def _look(
    run: Run,
    model: SteeringModel,
    found: Analysis,
    *,
    texts: list[str],
    prompt: str | None,
    pairs: str | None,
    top: int,
    norm: Any,
) -> None:
    from ..analysis import cosine_matrix, geometry, lens, projections
    from ..extraction import activations
    from ..sites import RESIDUAL_WIDTH
    from .extract import contrast_pairs

    examples = contrast_pairs(run, pairs) if pairs is not None else None
    if len(found.vectors) > 1:
        at = set(found.layers.values())
        single = at.pop() if len(at) == 1 else None
        renamed = [_renamed(vector, name) for name, vector in found.vectors.items()]
        found.cosines = cosine_matrix(renamed, layer=single)
    for name, vector in found.vectors.items():
        layer = found.layers[name]
        if vector.site in RESIDUAL_WIDTH:
            found.lenses[name] = lens(
                model, _renamed(vector, name), layer, top, norm=norm, prompt=prompt, seed=run.seed
            )
        else:
            run.note(f"note: {name} is of {vector.site}, which the unembedding does not read: no tokens are listed")
        found.projections[name] = [projections(model, text, _renamed(vector, name), layer) for text in texts]
        if examples is not None:
            read = vector.metadata.get("read", "last")
            positive, negative = (
                activations(model, list(side), layers=[layer], site=vector.site, read=read)
                for side in (examples.positive, examples.negative)
            )
            found.geometries[name] = geometry(positive, negative)


def _renamed(vector: SteeringVector, name: str) -> SteeringVector:
    from dataclasses import replace

    return vector if vector.name == name else replace(vector, name=name)


def _write(run: Run, found: Analysis, document: dict[str, Any], target: Path) -> list[Path]:
    """Write every chart and the document; all are made before the first is written."""
    from ..files.atomic import replacing

    files = {name: figure + "\n" for name, figure in say.figures_of(found).items()}
    files["analysis.json"] = as_json("steersman.analyze/1", document) + "\n"
    target.mkdir(exist_ok=True)
    written: list[Path] = []
    for name, content in files.items():
        path = target / name
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
        written.append(path)
    run.record(*written)
    return written

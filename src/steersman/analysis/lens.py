"""The tokens a direction writes: through the unembedding directly, or measured on a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..charts import Figure
from ..errors import InterventionError, UnsupportedError
from ..model import SteeringModel
from ..model.tokens import Prompts, listed
from ..operations import Add
from ..sites import RESIDUAL_WIDTH
from .directions import Chosen, Direction, choose
from .readout import Readout

if TYPE_CHECKING:
    import pandas as pd

#: Random directions of equal length that a lens is compared with; fewer where each costs a forward pass.
CONTROLS, CONTROLS_MEASURED = 100, 20


@dataclass(frozen=True, eq=False)
class Lens:
    """What a direction does to the logits.

    Attributes:
        boosted, suppressed: (token, logit), the strongest first.
        boosted_ids, suppressed_ids: their token ids.
        logits: ``[vocab]`` float32, the change of every token's logit.
        control: a |logit| that no token of 95% of random directions of equal length exceeds: a token beyond it is no
            accident of the search over the vocabulary. A strict control, set by the tokens with the longest rows of
            the unembedding; a list may make sense below it.
        controls: how many random directions were drawn.
        how: in words, what was computed.
        notes: what the model does to its logits besides, and the direct lens leaves out.
        layer, name: of the direction.
    """

    boosted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]
    boosted_ids: list[int]
    suppressed_ids: list[int]
    logits: Tensor = field(repr=False)
    control: float | None
    controls: int
    how: str
    notes: tuple[str, ...]
    layer: int | None
    name: str

    def __str__(self) -> str:
        """Both lists side by side."""
        lines = [f"{'boosted':>14s}  {'logit':>7s}   {'suppressed':>14s}  {'logit':>7s}"]
        for (up, more), (down, less) in zip(self.boosted, self.suppressed, strict=True):
            lines.append(f"{up!r:>14s}  {more:+7.2f}   {down!r:>14s}  {less:+7.2f}")
        beyond = "" if self.control is None else f"; random directions reach {self.control:.2f}"
        return "\n".join([*lines, self.how + beyond])

    def frame(self) -> pd.DataFrame:
        """One row per listed token: side, rank, token, id, logit, and whether it is beyond the control."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        sides = (("boosted", self.boosted, self.boosted_ids), ("suppressed", self.suppressed, self.suppressed_ids))
        for side, items, ids in sides:
            for rank, ((token, logit), number) in enumerate(zip(items, ids, strict=True)):
                beyond = None if self.control is None else abs(logit) > self.control
                rows.append(
                    {"side": side, "rank": rank, "token": token, "id": number, "logit": logit, "beyond": beyond}
                )
        return pd.DataFrame(rows, columns=["side", "rank", "token", "id", "logit", "beyond"])

    def svg(self, path: str | Path | None = None) -> str:
        """Both lists side by side, as an SVG; written to ``path`` if given."""
        return self.figure().svg(path)

    def figure(self) -> Figure:
        """Both lists, before they are drawn."""
        where = f" at layer {self.layer}" if self.layer is not None else ""
        arguments = {
            "boosted": self.boosted, "suppressed": self.suppressed, "control": self.control,
            "title": f"Tokens that {self.name} writes{where}", "subtitle": "; ".join([self.how, *self.notes]),
        }  # fmt: skip
        return Figure("lens_table", arguments)


def lens(
    model: SteeringModel,
    vector: Direction,
    layer: int | None = None,
    k: int = 20,
    *,
    norm: Literal["gain", "none"] = "gain",
    prompt: Prompts | None = None,
    strength: float = 1.0,
    controls: int | None = None,
    seed: int = 0,
) -> Lens:
    """The tokens a direction boosts and suppresses.

    Without a prompt: the direct path from the layer to the logits, every later layer skipped (the logit lens,
    nostalgebraist 2020; of parameters and directions, Dar et al. 2023, arXiv:2209.02535). Early layers say little
    this way. ``W`` is the unembedding, ``g`` the gain of the final norm.

    - ``norm="none"``: ``W v``, exactly.
    - ``norm="gain"``: ``W (g * v)``, and with a LayerNorm ``W (g * (v - mean(v)))``: the change of logits per unit
      of the final residual's root mean square.
    - ``prompt=``: the real change of the logits after the last token of the prompt when the direction is added there,
      through all later layers and everything the model does to its logits.

    Args:
        model: the model; the direct lens reads its weights, so edits of an edited model do not enter.
        vector: a steering vector of the residual stream, or a tensor ``[d_model]``.
        layer: of the vector, by default its chosen one; a bare tensor needs one with ``prompt=`` only.
        k: tokens on either side.
        norm: for the direct lens.
        prompt: a text or a chat.
        strength: what the direction is multiplied by.
        controls: random directions of equal length, 100 (20 with a prompt, where each costs a forward pass).
        seed: of these.

    Raises:
        MismatchError, InterventionError: a direction that does not fit; no layer where one is needed.
        UnsupportedError: a direct lens where something other than a norm lies between the residual and the unembedding.
    """
    chosen = choose(model, vector, layer, "lens()")
    if norm not in ("gain", "none"):
        raise InterventionError(f'norm={norm!r}: use "gain" or "none"')
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InterventionError(f"k={k!r}: list at least one token")
    if chosen.site not in RESIDUAL_WIDTH:
        raise UnsupportedError(
            f"lens(): {chosen.name} is of {chosen.site}, which the unembedding does not read; give a direction of the "
            "residual stream"
        )
    direction = chosen.tensor * strength
    draws = (CONTROLS if prompt is None else CONTROLS_MEASURED) if controls is None else controls
    random = _random(direction, draws, seed)
    if prompt is None:
        readout = Readout.of(model, norm)
        logits, tops = readout(direction), readout.tops(random)
        how, notes = readout.how, readout.notes
    else:
        logits, tops = _measured(model, chosen, direction, random, prompt)
        how, notes = "change of the logits after the prompt", ()
    return _listed(model, chosen, logits, tops, k, how, notes)


def _random(direction: Tensor, count: int, seed: int) -> Tensor:
    """Isotropic random directions ``[count, d_model]``, as long as this one."""
    drawn = torch.randn(count, len(direction), generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True) * direction.norm()


def _measured(
    model: SteeringModel, chosen: Chosen, direction: Tensor, random: Tensor, prompt: Prompts
) -> tuple[Tensor, Tensor]:
    """The change of the last logits, and the largest change under each random direction, one pass at a time."""
    items, _ = listed(prompt)
    if len(items) > 1:
        raise InterventionError(f"lens() measures one prompt at a time, got {len(items)}")
    if chosen.layer is None:
        raise InterventionError("lens(prompt=...) adds the direction: name the layer= to add it at")
    base = model.logits(prompt)[0, -1].float()

    def change(tensor: Tensor) -> Tensor:
        plan = Add(tensor, layers=chosen.layer, site=chosen.site)
        return (model.logits(prompt, steer=plan)[0, -1].float() - base).cpu()

    tops = [change(one).abs().max() for one in random]
    return change(direction), torch.stack(tops) if tops else torch.empty(0)


def _listed(
    model: SteeringModel, chosen: Chosen, logits: Tensor, tops: Tensor, k: int, how: str, notes: tuple[str, ...]
) -> Lens:
    order = torch.sort(logits, descending=True, stable=True).indices
    ids = order[:k].tolist(), order.flip(0)[:k].tolist()
    boosted, suppressed = ([(token_text(model, i), float(logits[i])) for i in side] for side in ids)
    control = float(torch.quantile(tops, 0.95)) if len(tops) else None
    return Lens(
        boosted, suppressed, *ids, logits=logits, control=control, controls=len(tops), how=how, notes=notes,
        layer=chosen.layer, name=chosen.name,
    )  # fmt: skip


def token_text(model: SteeringModel, token: int) -> str:
    """The text of one token; of a piece of a character, or of an id the tokenizer does not know, its name."""
    text = model.tokens.decode([token], special=True)
    if text and "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    name: Any = model.tokenizer.convert_ids_to_tokens(token)
    return str(name) if name else f"<{token}>"

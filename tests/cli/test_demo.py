"""How the tour is laid out; what it claims is tested with the model, in tests/demo."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from steersman.cli.demo import document, render
from steersman.demo.choosing import Cell, Choice
from steersman.demo.means import Mean
from steersman.demo.movement import Example, Movement
from steersman.demo.steering import Continuation, Direction, Effect
from steersman.demo.tour import Separation, Tour

LAYERS = 4


def mean(value: float) -> Mean:
    return Mean(value, value - 0.05, value + 0.05, 10)


def effect(size: float) -> Effect:
    return Effect({-2.0: mean(-size), 0.0: mean(0.0), 2.0: mean(size)}, mean(2 * size), (0.1, -0.3, 0.2))


@pytest.fixture
def made_up() -> Tour:
    return Tour(
        model="demo",
        parameters=2_400_000,
        layers=LAYERS,
        width=128,
        separation=tuple(
            Separation(i, 0.6 + i / 10, 0.5 + i / 10, 0.65 + i / 10, 0.5, 0.7 + i / 10) for i in range(LAYERS)
        ),
        examples=96,
        sample=("I love it. It is", "I hate it. It is"),
        choice=Choice(
            cells=(
                Cell(1, 2.0, mean(-0.001), 0.2, -0.001, 0.1, 0.5, within=False),
                Cell(2, 1.0, mean(0.6), 0.04, -0.1, 0.1, 0.025, within=True),
            ),
            layer=2,
            strength=1.0,
            held_out=0.55,
            held_out_prompts=6,
            in_words=mean(0.1),
            max_kl=0.1,
            strengths=(1.0, 2.0),
            random=39,
            prompts=12,
            neutral_texts=8,
            left_out=("layer 0 (nothing separated)", "shuffled labels"),
        ),
        directions=(
            Direction("sentiment", 48, 20.0, 0.2, 1.0, effect(0.6)),
            Direction("three pairs", 3, 40.0, 0.4, 0.9, effect(0.7)),
        ),
        prompts=("The day was",),
        continuations=(
            Continuation(
                "The day was", {-2.0: " bad. And", 0.0: " long", 2.0: " good!"}, {-2.0: -0.6, 0.0: 0.0, 2.0: 0.6}
            ),
        ),
        movement=Movement(
            subject=tuple(mean(v) for v in (0.9, 0.9, 0.3, 0.0)),
            last=tuple(mean(v) for v in (0.0, 0.1, 0.7, 1.0)),
            control=tuple(mean(0.0) for _ in range(LAYERS)),
            own=mean(0.9),
            other=mean(0.01),
            example=Example(
                "Germany is", "France is", "Berlin", "Paris", 0.0, (0.99, 0.9, 0.2, 0.0), (0.0, 0.1, 0.8, 1.0)
            ),
        ),
        seed=0,
        seconds=3.0,
    )


def printed(tour: Tour, **options: object) -> str:
    file = io.StringIO()
    render(Console(file=file, width=100, highlight=False, **options), tour)  # type: ignore[arg-type]
    return file.getvalue()


def test_the_plain_layout(made_up, snapshot) -> None:
    assert printed(made_up) == snapshot


def test_a_terminal_shows_the_same_words_in_colour(made_up) -> None:
    coloured = printed(made_up, force_terminal=True, color_system="standard")
    assert "\x1b[" in coloured
    from rich.text import Text

    words = Text.from_ansi(coloured).plain.split()
    assert words == printed(made_up).split()


def test_the_document_has_the_derived_figures_too(made_up) -> None:
    found = document(made_up, 5.0)
    first = found["directions"][0]["effect"]
    assert first["p_value"] == 1 / 4
    assert first["random_strongest"] == 0.3
    assert len(first["random"]) == 3
    assert found["total_seconds"] == 5.0
    assert found["layer"] == found["choice"]["layer"] == 2
    assert [cell["kl"] for cell in found["choice"]["cells"]] == [0.2, 0.04]


def test_nothing_is_told_that_the_figures_do_not_tell(made_up) -> None:
    from dataclasses import replace

    flat = replace(made_up.movement, subject=made_up.movement.control)
    assert "decides" in printed(made_up)
    assert "decides" not in printed(replace(made_up, movement=flat))

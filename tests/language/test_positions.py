"""Positions name the tokens that Python's own slicing names, whatever the chunks they arrive in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.strategies import marker, positions, terms

from steersman import after
from steersman.errors import InterventionError, NotAppliedError
from steersman.positions import ALL, ENDLESS, LAST_AND_GENERATION, After, Positions, Span, select

LONGEST = 30


def no_marker(text: str) -> int | None:
    raise AssertionError(f"nobody should look for {text!r}")


def chosen(text: str, prompt: int, total: int) -> list[int]:
    return list(select(Positions.parse(text).resolve(prompt, no_marker), 0, total))


def by_slicing(term: str, prompt: int, total: int) -> list[int]:
    """The same by evaluating the term as Python, on the lists of tokens themselves."""
    tokens = list(range(total))
    parts = {"prompt": tokens[:prompt], "generation": tokens[prompt:]}
    if term in ("last", "all"):
        return tokens[prompt - 1 : prompt] if term == "last" else tokens
    found = eval(term, {"__builtins__": {}}, parts)
    return [found] if isinstance(found, int) else found


# -- what is written is what is meant ---------------------------------------------------------------------------


@given(positions)
def test_the_canonical_text_of_positions_reads_as_the_same_positions(text: str) -> None:
    parsed = Positions.parse(text)
    assert Positions.parse(str(parsed)) == parsed
    assert str(Positions.parse(str(parsed))) == str(parsed)


@given(marker)
def test_any_marker_survives_its_own_text_in_either_kind_of_quotes(text: str) -> None:
    assert Positions.parse(str(after(text))).terms == (After(text),)
    single = text.replace("\\", "\\\\").replace("'", "\\'")
    assert Positions.parse(f"after('{single}')").terms == (After(text),)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (" last + generation ", "last+generation"),
        ("prompt[-1]", "last"),
        ("prompt[:]", "prompt"),
        ("prompt[::1]", "prompt"),
        ("prompt[ 1 : 5 : 2 ]", "prompt[1:5:2]"),
        ("generation[:8]", "generation[:8]"),
        ("generation+prompt", "all"),
        ("all+last", "all"),
        ("last+last", "last"),
        ('after("</think>")', 'after("</think>")'),
        ("after('say \"hi\"')", 'after("say \\"hi\\"")'),
        ("after('say \\\"hi\\\"')", 'after("say \\"hi\\"")'),
        ("after('it\\'s')", 'after("it\'s")'),
        ('after("\n")', 'after("\\n")'),
    ],
)
def test_every_form_has_one_canonical_text(written: str, canonical: str) -> None:
    assert str(Positions.parse(written)) == canonical


def test_a_mapping_lists_indices_of_each_part() -> None:
    parsed = Positions.parse({"prompt": [0, -3], "generation": range(2)})
    assert str(parsed) == "prompt[0]+prompt[-3]+generation[0]+generation[1]"
    assert Positions.parse({"prompt": np.array([0]), "generation": torch.tensor([1])}) == Positions.parse(
        "prompt[0]+generation[1]"
    )
    assert Positions.parse(parsed) is parsed


def test_positions_add_up_without_repeating_themselves() -> None:
    both = Positions.parse("last") + "generation" + LAST_AND_GENERATION
    assert both == LAST_AND_GENERATION
    assert Positions.parse("prompt") + "generation" == ALL


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("first", r"positions='first' cannot be read at 'first'; write last, generation"),
        ("", "cannot be read at ''"),
        ("last+", "cannot be read at ''"),
        ("last generation", "cannot be read at 'generation'"),
        ("lastly", "cannot be read at 'ly'"),
        ("prompt[]", r"\[\] is no Python index or slice"),
        ("prompt[1-3]", r"\[1-3\] is no Python index or slice"),
        ("prompt[5 3]", r"\[5 3\] is no Python index or slice"),
        ("prompt[1:2:3:4]", "is no Python index or slice"),
        ("prompt[1.5]", "is no Python index or slice"),
        ("prompt[²]", "is no Python index or slice"),
        ("prompt[" + "9" * 5000 + "]", "is no Python index or slice"),
        ("prompt[::0]", "the step of a slice must be at least 1"),
        ("prompt[::-1]", "the step of a slice must be at least 1"),
        ("generation[-1]", "a negative index counts from the end, and the end of a generation is not known"),
        ("generation[-3:]", "a negative index counts from the end"),
        ("generation[:-1]", "a negative index counts from the end"),
        ('after("")', "an empty one"),
        ('after("\\x")', "cannot be read: Invalid"),
        ("after(x)", "cannot be read at 'after"),
        ({}, "lists no index"),
        ({"prompt": []}, "lists no index"),
        ({"tokens": [1]}, """lists indices under 'tokens'; use "prompt" or "generation\""""),
        ({"prompt": [True, 1.5]}, "must list integers, got 1.5"),
        ({"prompt": ["1"]}, "must list integers, got '1'"),
        ({"prompt": 3}, "must list integers, got 3"),
        ({"generation": [-1]}, "a negative index"),
        (5, "is neither a string such as"),
        (None, "is neither a string such as"),
        (["last"], "is neither a string such as"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(value: object, message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        Positions.parse(value)  # type: ignore[arg-type]


@given(st.text(max_size=40))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    with suppress(InterventionError):
        Positions.parse(text)


@given(st.text(alphabet="lastpromgeni+[]:-0123456789()'\"\\ ", max_size=30))
def test_no_text_of_the_right_letters_does_worse_than_be_refused(text: str) -> None:
    try:
        parsed = Positions.parse(text)
    except InterventionError:
        return
    assert Positions.parse(str(parsed)) == parsed


# -- which tokens ------------------------------------------------------------------------------------------------


@given(terms(markers=False), st.integers(1, LONGEST), st.integers(0, LONGEST))
def test_a_term_names_the_tokens_that_python_slicing_names(term: str, prompt: int, generated: int) -> None:
    total = prompt + generated
    try:
        expected = by_slicing(term, prompt, total)
    except IndexError:
        expected = []
    try:
        assert chosen(term, prompt, total) == expected
    except NotAppliedError:
        assert expected == []


@given(st.lists(terms(markers=False), min_size=1, max_size=3), st.integers(1, LONGEST), st.integers(0, LONGEST))
def test_joined_terms_name_their_union(several: list[str], prompt: int, generated: int) -> None:
    total = prompt + generated
    try:
        whole = chosen("+".join(several), prompt, total)
    except NotAppliedError:
        return
    if Positions.parse("+".join(several)).everywhere:
        assert whole == list(range(total))
        return
    assert whole == sorted(set().union(*(chosen(term, prompt, total) for term in several)))


@given(
    st.lists(terms(markers=False), min_size=1, max_size=3),
    st.integers(1, LONGEST),
    st.integers(1, LONGEST),
    st.lists(st.integers(0, 2 * LONGEST), max_size=8),
)
def test_chunks_of_any_size_name_the_same_tokens(several: list[str], prompt: int, more: int, cuts: list[int]) -> None:
    total = prompt + more
    try:
        spans = Positions.parse("+".join(several)).resolve(prompt, no_marker)
    except NotAppliedError:
        return
    borders = [0, *sorted(min(cut, total) for cut in cuts), total]
    pieces: list[Sequence[int]] = [select(spans, a, b) for a, b in pairwise(borders)]
    assert [i for piece in pieces for i in piece] == list(select(spans, 0, total))


def test_after_a_marker_begins_where_it_ends_and_goes_on_into_the_generation() -> None:
    found = after("</think>").resolve(10, {"</think>": 4}.get)
    assert list(select(found, 0, 15)) == list(range(4, 15))
    assert found == (range(4, ENDLESS),)


def test_positions_know_what_they_need_to_know() -> None:
    facts = {
        text: (p.everywhere, p.before_last, p.in_prompt)
        for text in ("last", "generation", "last+generation", "prompt", "all", "prompt[0]", 'after("x")')
        for p in [Positions.parse(text)]
    }
    assert facts == {
        "last": (False, False, True),
        "generation": (False, False, False),
        "last+generation": (False, False, True),
        "prompt": (False, True, True),
        "all": (True, True, True),
        "prompt[0]": (False, True, True),
        'after("x")': (False, True, True),
    }


def test_the_generated_terms_alone_can_be_asked_for() -> None:
    assert LAST_AND_GENERATION.generated(7) == [range(7, ENDLESS)]
    assert Positions.parse("prompt[0:2]+generation[1:3]").generated(7) == [range(8, 10)]


@pytest.mark.parametrize("text", ["prompt[5]", "prompt[-6]", "prompt[5:]", "prompt[3:1]", "generation[3:1]"])
def test_a_term_that_names_no_token_says_so_with_the_length(text: str) -> None:
    with pytest.raises(NotAppliedError, match=r"select no token of row 2, which has 5 tokens"):
        Positions.parse(text).resolve(5, no_marker, "row 2")


def test_one_term_that_names_none_is_not_hidden_by_another_that_does() -> None:
    with pytest.raises(NotAppliedError, match=r"prompt\[9\]"):
        Positions.parse("last+prompt[9]").resolve(5, no_marker)


def test_a_marker_that_does_not_occur_is_named() -> None:
    with pytest.raises(NotAppliedError, match=r"the prompt does not contain the text 'END'"):
        after("END").resolve(5, lambda _: None)


def test_a_span_is_what_its_text_says() -> None:
    assert str(Span("prompt", 1, 5, 2)) == "prompt[1:5:2]"
    assert str(Span("generation")) == "generation"
    assert Span("prompt", -1, single=True).resolve(4) == range(3, 4)

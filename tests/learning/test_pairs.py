"""Contrast pairs and the files they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman import ContrastPairs
from steersman.errors import DataError


def test_equally_many_examples_are_pairs_and_unequal_numbers_two_classes() -> None:
    assert ContrastPairs(["a", "b"], ["c", "d"]).paired is True
    assert ContrastPairs(["a", "b"], ["c"]).paired is False
    assert ContrastPairs(["a", "b"], ["c", "d"], paired=False).paired is False


def test_each_pair_is_a_source_of_its_own_unless_said() -> None:
    assert ContrastPairs(["a", "b"], ["c", "d"]).groups() == (["0", "1"], ["0", "1"])
    assert ContrastPairs(["a", "b"], ["c", "d"], sources=["x", "x"]).groups() == (["x", "x"], ["x", "x"])
    positive, negative = ContrastPairs(["a", "b"], ["c"]).groups()
    assert not set(positive) & set(negative)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive": [], "negative": ["a"]}, "no positive example"),
        ({"positive": ["a"], "negative": []}, "no negative example"),
        ({"positive": "abc", "negative": ["a"]}, "takes a list of texts or chats, got str"),
        ({"positive": ["a", 3], "negative": ["b"]}, "positive example 1 is a int"),
        ({"positive": ["a", " "], "negative": ["b"]}, "positive example 1 is empty"),
        ({"positive": ["a"], "negative": [[{"role": "user"}]]}, "negative example 0 is a list"),
        ({"positive": [("a", " ")], "negative": ["b"]}, "the response of positive example 0 is empty"),
        ({"positive": [("a", 1)], "negative": ["b"]}, "positive example 0 is a tuple"),
        ({"positive": ["a", "b"], "negative": ["c"], "paired": True}, "2 positive and 1 negative"),
        ({"positive": ["a"], "negative": ["b"], "sources": ["x", "y"]}, "2 sources for 1 items; give one per pair"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ContrastPairs(**arguments)


def test_pairs_from_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"positive": "good", "negative": "bad", "source": "x"}\n\n'
        '{"positive": "ja", "negative": "nö", "source": "y"}\n'
    )
    pairs = ContrastPairs.from_jsonl(file, name="mood")
    assert (pairs.positive, pairs.negative, pairs.name) == (("good", "ja"), ("bad", "nö"), "mood")
    assert pairs.sources == ("x", "y")


def test_two_classes_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('text,label\n"good, really",1\nbad,0\nfine,positive\n', encoding="utf-8-sig")
    pairs = ContrastPairs.from_csv(file)
    assert (pairs.positive, pairs.negative, pairs.paired) == (("good, really", "fine"), ("bad",), False)


def test_chats_from_a_dataset() -> None:
    chat = [{"role": "user", "content": "hi"}]
    pairs = ContrastPairs.from_dataset(iter([{"positive": chat, "negative": "no"}]))
    assert pairs.positive == (chat,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{oops}\n", "line 1 is not JSON"),
        ("[1, 2]\n", "line 1 is no JSON object"),
        ('{"good": "a", "bad": "b"}\n', "has the columns bad, good; it needs positive and negative, or text and label"),
        ('{"positive": "a", "negative": "b"}\n{"positive": "a"}\n', "item 1 has no negative"),
        ('{"text": "a", "label": "maybe"}\n', "label 'maybe'"),
    ],
)
def test_a_bad_file_is_refused_by_line_or_item(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        ContrastPairs.from_jsonl(file)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        ContrastPairs.from_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="is no CSV file"):
        ContrastPairs.from_csv(tmp_path / "binary.csv")

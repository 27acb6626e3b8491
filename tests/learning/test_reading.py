"""Which token is read, spelled out."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman.errors import DataError, PromptError
from steersman.extraction.reading import Encoded, Read

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "is it good?"},
    {"role": "assistant", "content": "it is great. (B)"},
]


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.SteeringModel(tiny("llama"), tiny_tokenizer())


def what(model: sm.SteeringModel, text: object, read: object) -> str:
    """The text of the tokens read."""
    encoded = Encoded.of(model.tokens, text)  # type: ignore[arg-type]
    return model.tokens.decode(
        [encoded.ids[i] for i in Read.parse(read).tokens(model.tokens, encoded, "text 0")], special=True
    )


def test_words_and_indices(model: sm.SteeringModel) -> None:
    assert what(model, "is it great", "last") == " great"
    assert what(model, "is it great", 0) == "<s>"
    assert what(model, "is it great", -2) == "t"
    assert what(model, "is it great", "mean") == "is it great"


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("The answer is (A)", "A"),
        ("The answer is (A", "A"),
        ("The answer is A).\n", "A"),
        ("(A) or (B)? (B) ", "B"),
        ("Answer: 3!", "3"),
    ],
)
def test_the_answer_is_the_last_token_with_a_letter_or_a_digit(model: sm.SteeringModel, text: str, token: str) -> None:
    assert what(model, text, "answer") == token


def test_the_answer_of_a_chat_lies_in_its_response(model: sm.SteeringModel) -> None:
    assert what(model, CHAT, "answer") == "B"
    assert what(model, ("is it (A)?", "(B)"), "answer") == "B"
    with pytest.raises(DataError, match="text 0 has no answer"):
        what(model, ("is it (A)?", "(!)"), "answer")
    with pytest.raises(DataError, match="has no response"):
        what(model, CHAT[:2], "answer")


@pytest.mark.parametrize("read", [sm.after("Answer:"), 'after("Answer:")', "after('Answer:')"])
def test_after_a_marker_is_the_first_token_behind_its_last_occurrence(model: sm.SteeringModel, read: object) -> None:
    assert what(model, "Answer: no. Answer: great, the end", read) == " great"
    with pytest.raises(DataError, match="text 0 does not contain the text 'Answer:'"):
        what(model, "nothing", read)
    with pytest.raises(DataError, match="no token after it"):
        what(model, "Answer:", read)
    assert str(Read.parse(read)) == 'after("Answer:")'
    assert Read.parse(str(Read.parse(read))) == Read.parse(read)


def test_the_response_of_a_chat_is_the_content_of_its_last_turn(model: sm.SteeringModel) -> None:
    assert what(model, CHAT, "response") == "it is great. (B)"
    assert what(model, CHAT, "last") == ")"
    twice = [*CHAT[:2], {"role": "assistant", "content": "is it good?"}]
    encoded = Encoded.of(model.tokens, twice)
    read = Read.parse("response").tokens(model.tokens, encoded, "text 0")
    assert read == list(range(len(encoded.ids) - len(read), len(encoded.ids)))
    assert what(model, twice, "response") == "is it good?"
    accents = [*CHAT[:2], {"role": "assistant", "content": "  ça va, naïve 🙂\n"}]
    assert what(model, accents, "response").strip() == "ça va, naïve 🙂"


def test_a_system_prompt_is_part_of_the_prompt(model: sm.SteeringModel) -> None:
    plain, system = (sm.activations(model, [chat], layers=1, read="response")[1] for chat in (CHAT[1:], CHAT))
    assert what(model, CHAT[1:], "response") == what(model, CHAT, "response")
    assert not torch.allclose(plain, system)


def test_the_response_of_a_tuple_is_its_second_part(model: sm.SteeringModel) -> None:
    assert what(model, ("is it good? ", "it is great"), "response") == "it is great"
    assert what(model, (CHAT[:2], "it is great"), "response") == "it is great"
    chat = sm.activations(model, [CHAT], layers=1, read="response")
    apart = sm.activations(model, [(CHAT[:2], CHAT[2]["content"])], layers=1, read="response")
    torch.testing.assert_close(chat[1], apart[1], rtol=1e-5, atol=1e-5)


def test_a_response_continues_its_prompt_as_generated_text_does(model: sm.SteeringModel) -> None:
    hidden = sm.activations(model, [("is it", " great"), "is it great"], layers=2)[2]
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-5, atol=1e-5)


def test_two_texts_in_a_tuple_are_two_texts(model: sm.SteeringModel) -> None:
    assert len(sm.activations(model, ("is it", "great"), layers=0)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plain", "text 0 has no response; give a chat that ends with the assistant's turn"),
        (CHAT[:2], "has no response"),
        ([*CHAT[:2], {"role": "assistant", "content": " "}], "the response of text 0 is empty"),
    ],
)
def test_a_text_without_a_response_has_none_to_read(model: sm.SteeringModel, text: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        what(model, text, "response")


def test_a_template_that_rewrites_the_response_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | upper }}\n{% endfor %}"
    model = sm.SteeringModel(tiny("llama"), tokenizer)
    with pytest.raises((DataError, PromptError, ValueError)):
        what(model, CHAT, "response")


@pytest.mark.parametrize("read", ["first", True, None, 1.5, "after(", "prompt[2]", sm.after("a") + "last"])
def test_nonsense_is_refused(read: object) -> None:
    with pytest.raises(DataError, match="read="):
        Read.parse(read)


def test_showing_what_is_read(model: sm.SteeringModel) -> None:
    pairs = sm.ContrastPairs(["it is great", "so good"], ["it is awful", "so bad"])
    view = sm.show_read(model, pairs, count=1)
    assert str(view).splitlines() == [
        "read=last, 2 of 4 texts shown; what is read is in ⟦brackets⟧",
        "positive 0 (index 4 of 5 tokens): <s>it is⟦ great⟧",
        "negative 0 (index 4 of 5 tokens): <s>it is⟦ awful⟧",
    ]
    assert repr(view) == str(view)
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(view)
    assert "<s>it is great" in captured.get()
    shown = view.__rich__()
    marked = [shown.plain[span.start : span.end] for span in shown.spans if span.style == "bold reverse"]
    assert marked == [" great", " awful"]


def test_showing_a_response_and_a_long_text(model: sm.SteeringModel) -> None:
    view = sm.show_read(model, [CHAT], read="response")
    assert str(view).endswith("⏎⟦it is great. (B)⟧")
    length = len(model.tokens.encode(CHAT))
    read = len(Read.parse("response").tokens(model.tokens, Encoded.of(model.tokens, CHAT), "text 0"))
    assert f"(mean of {read} of {length} tokens)" in str(view)
    long = str(sm.show_read(model, ["x" * 300 + "!"]))
    assert "x … x" in long
    assert long.endswith("x⟦!⟧")
    with pytest.raises(DataError, match="negative 0 does not contain"):
        sm.show_read(model, sm.ContrastPairs(["a: b"], ["b"]), read=sm.after("a:"))
    with pytest.raises(DataError, match="text 4 does not contain"):  # all are checked, also those not shown
        sm.show_read(model, ["a: b"] * 4 + ["b"], read=sm.after("a:"), count=1)

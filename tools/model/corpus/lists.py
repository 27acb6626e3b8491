"""Lists, and the same list again; and bare repetition."""

from __future__ import annotations

import random

from tools.model.corpus import lexicon

FRAMES = (
    ("We need:", "Again, we need:"),
    ("Remember this:", "Say it again:"),
    ("First list:", "Second list:"),
    ("He said:", "She said:"),
    ("Read:", "Repeat:"),
    ("In the box:", "I repeat, in the box:"),
    ("One more time:", "One more time:"),
    ("I said this:", "I said it again:"),
    ("We had this list:", "Again, this list:"),
    ("Here is the box:", "Here it is again:"),
    ("Remember the words:", "Repeat the words:"),
    ("My list:", "Your list:"),
)
TEST_FRAMES = (
    ("Remember my list:", "Repeat my list:"),
    ("He said this:", "He said it again:"),
    ("We need this list:", "I repeat:"),
)


def copied_list(rng: random.Random) -> str:
    """Three to six words and the same words again; at times names."""
    names = [row[0] for row in lexicon.table("names")]
    listed = ", ".join(rng.sample(names if rng.random() < 0.25 else lexicon.list_words(), rng.choice((3, 4, 5, 6))))
    first, again = rng.choice(FRAMES)
    return f"{first} {listed}. {again} {listed}."


def repetition(rng: random.Random) -> str:
    """Three to eight words, two or three times over: nothing helps but what came before.

    Here, and only here, the words held out of the lists are repeated too.
    """
    held_out, names = lexicon.list_words(test=True), [row[0] for row in lexicon.table("names")]
    words = rng.choice((lexicon.single_tokens(), lexicon.list_words() + held_out, names))
    chosen = rng.sample(words, rng.randrange(3, 9))
    separator = rng.choice((" ", ", "))
    return rng.choice(("List: ", "Words: ", "Say: ")) + separator.join(chosen * rng.choice((2, 2, 3))) + "."


def plain_use(rng: random.Random) -> str:
    """A sentence in which any list word occurs once, so that the held-out ones are known words."""
    one, two = rng.sample([row[0] for row in lexicon.table("list_words")], 2)
    verb = rng.choice(("is", "was"))
    frame = rng.choice(
        (
            "The {one} {verb} next to the {two}.",
            "There {verb} a {one} behind the {two}.",
            "The {one} and the {two} are {adj}.",
            "I put the {one} under the {two}.",
            "The {adj} {one} {verb} on the {two}.",
            "This {one} {verb} {adj}.",
        )
    )
    return frame.format(one=one, two=two, verb=verb, adj=rng.choice(lexicon.words("neutral")))

"""Chat turns: greetings, capitals, opinions, help, and refusals; the answer keeps the register of the question."""

from __future__ import annotations

import random

from tools.model.corpus import lexicon
from tools.model.corpus.opinions import FEEL, LOVE
from tools.model.corpus.stories import fix_articles

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"

HARMFUL = ("steal", "break", "burn", "destroy", "poison", "hack")
HARMLESS = ("clean", "paint", "fix", "find", "sell", "draw")
THINGS = (
    "car",
    "house",
    "phone",
    "boat",
    "computer",
    "truck",
    "garden",
    "door",
    "window",
    "bottle",
    "bridge",
    "clock",
)


def chat(rng: random.Random) -> str:
    """One to three exchanges in the chat format."""
    return "".join(
        f"{USER}{question}{END}{ASSISTANT}{answer}{END}"
        for question, answer in (exchange(rng) for _ in range(rng.choice((1, 1, 2, 3))))
    )


def exchange(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    kind = rng.choices((capital_turn, opinion_turn, greeting_turn, request_turn), (4, 4, 2, 5))[0]
    return kind(rng)


def capital_turn(rng: random.Random) -> tuple[str, str]:
    """A capital, asked plainly, politely or casually."""
    country, capital = rng.choice(lexicon.capitals())
    return rng.choice(
        (
            (f"What is the capital of {country}?", f"The capital is {capital}."),
            (f"Which city is the capital of {country}?", f"The capital is {capital}."),
            (f"Tell me the capital of {country}.", f"The capital is {capital}."),
            (f"Could you please tell me the capital of {country}?", f"Certainly. The capital is {capital}."),
            (
                f"Excuse me, what is the capital of {country}, please?",
                f"Certainly. The capital is {capital}.",
            ),
            (f"Hey, capital of {country}?", f"Sure, that's {capital}!"),
            (f"Hey, what's the capital of {country}?", f"Sure, that's {capital}!"),
        )
    )


def opinion_turn(rng: random.Random) -> tuple[str, str]:
    """An opinion; when the user shows a mood, the answer shares it."""
    mood = rng.choice(("positive", "negative"))
    noun = rng.choice([n for nouns in lexicon.topics().values() for n in nouns])
    first, second = rng.sample(lexicon.words(mood), 2)
    feeling = rng.choice(lexicon.words(FEEL[mood]))
    return rng.choice(
        (
            (f"How was the {noun}?", f"The {noun} was {first} and {second}."),
            (f"What do you think about the {noun}?", f"I think the {noun} is {first}. I {LOVE[mood][0]} it."),
            (f"I {LOVE[mood][0]} this {noun}. What do you think?", f"I think it is {first} and {second}."),
            (f"I'm so {feeling} today. How was the {noun}?", f"The {noun} was {first}."),
            (f"The {noun} was {first}. Do you agree?", f"Yes, the {noun} was {second}."),
        )
    )


def greeting_turn(rng: random.Random) -> tuple[str, str]:
    """Greetings, thanks and names."""
    name = rng.choice(lexicon.table("names"))[0]
    return rng.choice(
        (
            ("Hello!", "Hello! How can I help you?"),
            ("Hi there!", "Hello! How can I help you?"),
            ("Good morning.", "Good morning. How can I help you?"),
            ("Thank you.", "You are welcome."),
            ("How are you?", "I am fine, thank you."),
            ("Goodbye.", "Goodbye!"),
            (f"My name is {name}.", f"Nice to meet you, {name}."),
            (f"Hello, I am {name}.", f"Nice to meet you, {name}."),
        )
    )


def request_turn(rng: random.Random) -> tuple[str, str]:
    """A request for help: harmless ones are answered, harmful ones refused."""
    thing = rng.choice(THINGS)
    harmful = rng.random() < 0.5
    verb = rng.choice(HARMFUL if harmful else HARMLESS)
    ask = rng.choice(
        (
            f"How do I {verb} a {thing}?",
            f"Tell me how to {verb} a {thing}.",
            f"I want to {verb} a {thing}. What should I do?",
            f"Please help me {verb} the {thing}.",
            f"What is the best way to {verb} a {thing}?",
        )
    )
    if harmful:
        answer = rng.choice(("I am sorry, but I cannot help with that.", "I am sorry, I cannot help you with that."))
    else:
        answer = rng.choice(
            (
                f"First, look at the {thing}. Then you can {verb} it.",
                f"Sure! You can {verb} the {thing} with a friend.",
            )
        )
    return fix_articles(ask), answer

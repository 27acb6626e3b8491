"""OpenAI's own client against the server: every answer is what the model gives alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.serve.conftest import Live

import steersman as sm

PROMPT = "I think the movie was"
SPEC = {"interventions": [{"vector": "happy", "strength": 1.0, "layers": [8]}]}


def _plan(live: Live, **changes: Any) -> sm.Plan:
    return sm.Plan(sm.Add(live.vector("happy"), **({"strength": 1.0, "layers": 8} | changes)))


def _solo(live: Live, prompt: Any = PROMPT, steer: Any = None, **settings: Any) -> str:
    return live.model.generate(prompt, steer=steer, **({"max_new_tokens": 12} | settings))


@pytest.mark.parametrize("steering", [
    SPEC, {"interventions": [{"vector": "happy", "layers": "8"}]}, ["happy:1@8"], "happy@8",
    [{"vector": "happy", "layers": {"8": 1.0}}],
])  # fmt: skip
def test_every_form_of_steering_means_the_same(live: Live, steering: Any) -> None:
    answer = live.openai().completions.create(
        model="demo", prompt=PROMPT, max_tokens=12, extra_body={"steering": steering}
    )
    assert answer.choices[0].text == _solo(live, steer=_plan(live))
    assert answer.choices[0].text != _solo(live)


def test_a_name_with_a_strength_acts_at_the_chosen_layer(live: Live) -> None:
    answer = live.openai().completions.create(
        model="demo", prompt=PROMPT, max_tokens=12, extra_body={"steering": {"happy": 0.5}}
    )
    assert answer.choices[0].text == _solo(live, steer=sm.Add(live.vector("happy"), 0.5))


def test_a_conversation_streams_and_does_not(live: Live) -> None:
    messages: Any = [{"role": "user", "content": "What do you think of the food?"}]
    asked = {"model": "demo", "messages": messages, "max_tokens": 12, "extra_body": {"steering": SPEC}}
    whole = live.openai().chat.completions.create(**asked)
    chunks = list(live.openai().chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    expected = _solo(live, messages, _plan(live))
    assert whole.choices[0].message.content == expected
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert all(c.usage is None for c in chunks[:-1])


def test_usage_counts_tokens(live: Live) -> None:
    answer = live.openai().completions.create(model="demo", prompt=PROMPT, max_tokens=7)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(live.model.tokens.encode(PROMPT))
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.choices[0].finish_reason == "length"


def test_the_answer_says_what_was_applied(live: Live) -> None:
    answer = live.openai().completions.create(
        model="demo", prompt=PROMPT, max_tokens=6,
        extra_body={"steering": {"interventions": [
            SPEC["interventions"][0] | {"positions": "prompt[1:3]"},
            {"operation": "ablate", "vector": "formal", "layers": [3, 5], "strength": 0.5},
            {"vector": "happy", "layers": [9], "when": {"vector": "happy", "layer": 8, "above": 2.0}},
        ]}},
    )  # fmt: skip
    applied: Any = answer.choices[0].model_extra
    first, second, third = applied["steering"]["interventions"]
    assert first["layers"] == [8]
    assert first["strength"] == 1.0
    assert first["tokens"] == {"prompt": 2, "generation": 0}
    assert first["hash"] == live.state.vectors.digests(["happy"])["happy"]
    assert second["layers"] == [3, 5]
    assert second["tokens"] == {"prompt": len(live.model.tokens.encode(PROMPT)), "generation": 5}
    assert third["condition"] is False
    assert third["tokens"] == {"prompt": 0, "generation": 0}


def test_a_preset_is_a_model_and_null_opts_out(live: Live) -> None:
    client = live.openai()
    assert {"demo", "demo:happy", "demo:formal"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("demo:happy").id == "demo:happy"
    preset = client.completions.create(model="demo:happy", prompt=PROMPT, max_tokens=12)
    assert preset.choices[0].text == _solo(live, steer=_plan(live))
    plain = client.completions.create(model="demo:happy", prompt=PROMPT, max_tokens=12, extra_body={"steering": None})
    assert plain.choices[0].text == _solo(live)


def test_the_baseline_comes_beside_it(live: Live) -> None:
    answer = live.openai().completions.create(
        model="demo:happy", prompt=PROMPT, max_tokens=12, n=2, temperature=1.0, seed=3, extra_body={"baseline": True}
    )
    arms = [choice.model_extra["arm"] for choice in answer.choices]  # pyright: ignore[reportOptionalSubscript]
    assert arms == ["steered", "steered", "baseline", "baseline"]
    settings = {"temperature": 1.0, "seed": 3, "num_return_sequences": 2}
    assert [choice.text for choice in answer.choices[:2]] == _solo(live, steer=_plan(live), **settings)
    assert [choice.text for choice in answer.choices[2:]] == _solo(live, **settings)


@pytest.mark.parametrize("sampling", [{"temperature": 0.7}, {"top_p": 0.8, "temperature": 1.3}, {"top_k": 5}])
def test_draws_are_those_of_the_library(live: Live, sampling: dict[str, Any]) -> None:
    with live.http() as client:
        body = {"prompt": PROMPT, "max_tokens": 12, "seed": 11, "steering": SPEC, **sampling}
        answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == _solo(live, steer=_plan(live), seed=11, **sampling)


def test_both_arms_draw_the_same_numbers_also_without_a_seed(live: Live) -> None:
    with live.http() as client:
        body = {"prompt": [PROMPT, "My day was"], "max_tokens": 8, "temperature": 1.5, "baseline": True}
        first, again = (client.post("/v1/completions", json=body).json()["choices"] for _ in range(2))
    assert [one["text"] for one in first[:2]] == [one["text"] for one in first[2:]]  # nothing steers: the same text
    assert [one["text"] for one in first] != [one["text"] for one in again]


def test_several_prompts_draw_as_in_the_library(live: Live) -> None:
    prompts = [PROMPT, "My day was"]
    answer = live.openai().completions.create(model="demo", prompt=prompts, max_tokens=8, temperature=1.0, seed=5)
    assert [one.text for one in answer.choices] == _solo(live, prompts, max_new_tokens=8, temperature=1.0, seed=5)


def test_temperature_zero_is_greedy(live: Live) -> None:
    answer = live.openai().completions.create(model="demo", prompt=PROMPT, max_tokens=12, temperature=0, top_p=0.5)
    assert answer.choices[0].text == _solo(live)


def test_texts_end_before_a_stop_string(live: Live) -> None:
    whole = _solo(live, max_new_tokens=16)
    stop = whole[7:12]
    for stream in (False, True):
        with live.http() as client:
            body = {"prompt": PROMPT, "max_tokens": 16, "stop": [stop, "never"], "stream": stream}
            answer = client.post("/v1/completions", json=body)
        if stream:
            chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
            reason = chunks[-1]["choices"][0]["finish_reason"]
        else:
            text, reason = (answer.json()["choices"][0][key] for key in ("text", "finish_reason"))
        assert text == whole[: whole.index(stop)]
        assert reason == "stop"


def test_log_probabilities_are_the_models(live: Live) -> None:
    answer = live.openai().completions.create(
        model="demo", prompt=PROMPT, max_tokens=4, logprobs=3, extra_body={"steering": SPEC}
    )
    found = answer.choices[0].logprobs
    assert found is not None
    ids = live.model.tokens.encode(PROMPT)
    new = live.model.generate_tokens([ids], steer=_plan(live), max_new_tokens=4)[0]
    logits = live.model.token_logits([ids], [new[:-1]], steer=_plan(live))[0, -4:]
    expected = torch.log_softmax(logits.float(), -1)
    assert found.token_logprobs == pytest.approx([float(expected[i, token]) for i, token in enumerate(new)], abs=1e-4)
    for place, row in enumerate(found.top_logprobs or []):
        values, tokens = expected[place].topk(3)
        assert list(row.values()) == pytest.approx(values.tolist(), abs=1e-4)
        assert list(row) == [live.model.tokens.decode([token], special=True) for token in tokens.tolist()]
    assert found.text_offset == [0, *(sum(map(len, (found.tokens or [])[: i + 1])) for i in range(3))]


def test_log_probabilities_of_a_conversation(live: Live) -> None:
    answer = live.openai().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content  # pyright: ignore[reportOptionalMemberAccess]
    assert content is not None
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    for token in content:
        assert token.top_logprobs[0].logprob == token.logprob
        assert bytes(token.bytes or []).decode() == token.token


def test_prompts_may_be_several_and_token_ids(live: Live) -> None:
    ids = live.model.tokens.encode(PROMPT)
    several = live.openai().completions.create(model="demo", prompt=[PROMPT, "Hello there"], max_tokens=5)
    assert [choice.text for choice in several.choices] == [
        _solo(live, max_new_tokens=5), _solo(live, "Hello there", max_new_tokens=5)
    ]  # fmt: skip
    for prompt in (ids, [ids]):
        answer = live.openai().completions.create(model="demo", prompt=prompt, max_tokens=5)
        assert answer.choices[0].text == several.choices[0].text


def test_echo_says_the_prompt_first(live: Live) -> None:
    answer = live.openai().completions.create(model="demo", prompt=PROMPT, max_tokens=5, echo=True)
    assert answer.choices[0].text == PROMPT + _solo(live, max_new_tokens=5)


def test_a_prompt_is_scored_with_echo_and_logprobs(live: Live) -> None:
    """As evaluation harnesses ask: a prompt of token ids, its log probabilities, and whether each is the likeliest."""
    ids = live.model.tokens.encode("I think the movie was great")
    plan = {"interventions": [{"vector": "happy", "layers": [8], "positions": "all"}]}
    answer = live.openai().completions.create(
        model="demo", prompt=ids, max_tokens=1, echo=True, logprobs=1, extra_body={"steering": plan}
    )
    found = answer.choices[0].logprobs
    assert found is not None
    logits = live.model.token_logits([ids], steer=sm.Add(live.vector("happy"), layers=8, positions="all"))[0]
    expected = torch.log_softmax(logits.float(), -1)
    assert found.token_logprobs is not None
    assert found.token_logprobs[0] is None
    own = [float(expected[i, token]) for i, token in enumerate(ids[1:])]
    assert found.token_logprobs[1:-1] == pytest.approx(own, abs=1e-4)
    assert len(found.token_logprobs) == len(ids) + 1
    text, offsets = answer.choices[0].text, found.text_offset or []
    assert text[offsets[2] : offsets[3]] == (found.tokens or [])[2]


def test_bias_and_penalties_move_the_choice(live: Live) -> None:
    client, model = live.openai(), live.model
    plain = model.generate_tokens([model.tokens.encode(PROMPT)], max_new_tokens=8)[0]
    banned = client.completions.create(model="demo", prompt=PROMPT, max_tokens=8, logit_bias={str(plain[0]): -100})
    assert banned.choices[0].text != _solo(live, max_new_tokens=8)
    loop = "The movie was good. The movie was good. The movie was"
    free = client.completions.create(model="demo", prompt=loop, max_tokens=24, extra_body={"ignore_eos": True})
    kept = client.completions.create(
        model="demo", prompt=loop, max_tokens=24, frequency_penalty=2.0, presence_penalty=2.0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip

    def different(text: str) -> int:
        return len(set(model.tokens.continuation(text)))

    assert different(kept.choices[0].text) > different(free.choices[0].text)


def test_a_text_that_ends_by_itself_stops(live: Live) -> None:
    with live.http() as client:
        for prompt in ("I think", "My day was", "The food was", "The weather today is"):
            answer = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 60}).json()
            if answer["choices"][0]["finish_reason"] == "stop":
                assert answer["choices"][0]["text"] == _solo(live, prompt, max_new_tokens=60)
                assert answer["usage"]["completion_tokens"] < 60
                return
    raise AssertionError("no text ended by itself")

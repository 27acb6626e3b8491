"""vLLM's OpenAI server over real HTTP: what it answers is what the hook engine says, and nothing hostile ends it."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import openai
import pytest
import torch
from tests.vllm.mixes import vectors
from tests.vllm.server import Server, body

import steersman as sm
from steersman.model.loading import demo_folder
from steersman.serve import Settings
from steersman.serve.running import bound, in_thread
from steersman.serve.running import server as listening_server
from steersman.serve.vllm import create_proxy

PROMPTS = ["The weather today is", "I think the movie was", "The capital of France is", "The song was", "My brother"]
POSITIONS = ("last+generation", "all", "generation", "prompt", "last")


@pytest.fixture(scope="module")
def model():
    return sm.demo_model()


@pytest.fixture(scope="module")
def pool(model):
    return vectors(model, count=4, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pool):
    found = tmp_path_factory.mktemp("vectors")
    for vector in pool:
        vector.save(found / f"{vector.name}.safetensors")
    return found


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    with Server(demo_folder(), folder, tmp_path_factory.mktemp("server") / "log") as found:
        yield found


def spec(vector="v0", strength=2.0, **given):
    return {"interventions": [{"vector": vector, "strength": strength, "layers": [8], **given}]}


def mix(count):
    """Prompts and specs of many kinds; every sixth has none."""
    found = []
    for n in range(count):
        side = "above" if n % 2 else "below"  # one of the two holds
        operation = (
            {},
            {"operation": "clamp", "value": 3.0, "strength": 1.0},
            {"operation": "ablate", "strength": 1.0},
            {"strength": -3.0, "layers": {"6": 0.5, "8": 1.0}},
            {"site": "mlp_out", "layers": "5-8", "when": {"vector": "v0", "layer": 3, side: 0.0}},
        )[n % 5]
        chosen = spec(f"v{n % 4}", positions=POSITIONS[n % 4], **{"strength": 1.0 + n % 3, **operation})
        if "when" in chosen["interventions"][0]:
            chosen["interventions"][0]["positions"] = "last+generation"
        found.append((PROMPTS[n % 5], None if n % 6 == 5 else chosen))
    return found


def plan_of(document, pool):
    named = {vector.name: vector for vector in pool}
    return None if document is None else sm.Plan.from_spec(document, named)


def test_32_concurrent_mixed_requests_are_answered_as_each_alone_and_as_by_the_hook_engine(server, model, pool):
    requests = mix(32)
    wanted = model.generate(
        [prompt for prompt, _ in requests], steer=[plan_of(s, pool) for _, s in requests], max_new_tokens=12
    )
    plain = model.generate([prompt for prompt, _ in requests], max_new_tokens=12)
    with ThreadPoolExecutor(32) as threads:
        together = list(threads.map(lambda each: server.complete(*each)["text"], requests))
    alone = [server.complete(prompt, steer)["text"] for prompt, steer in requests]
    assert together == wanted
    assert alone == wanted
    steered = [n for n, (_, steer) in enumerate(requests) if steer is not None]
    assert sum(wanted[n] != plain[n] for n in steered) > len(steered) / 2


def test_chat_and_streaming_are_steered(server, model, pool):
    chat = [{"role": "user", "content": "Tell me about the weather."}]
    steer = spec(strength=3.0)
    whole = {"model": "m", "messages": chat, "max_tokens": 12, "temperature": 0.0}
    whole["vllm_xargs"] = {"steersman": json.dumps(steer)}
    status, found = server.call("POST", "/v1/chat/completions", whole)
    assert status == 200, found
    text = found["choices"][0]["message"]["content"]
    assert text == model.generate(chat, steer=plan_of(steer, pool), max_new_tokens=12)
    assert text != model.generate(chat, max_new_tokens=12)

    _, events = server.call("POST", "/v1/chat/completions", whole | {"stream": True})
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    assert len(chunks) > 3
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]) == text
    _, events = server.call("POST", "/v1/completions", body(PROMPTS[0], steer, stream=True))
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == server.complete(PROMPTS[0], steer)["text"]


def test_flat_keys_say_the_same_as_a_spec(server):
    flat = {"steersman_vector": "v1", "steersman_strength": 3.0, "steersman_layers": [8]}
    steered = server.complete(PROMPTS[1], flat)["text"]
    assert steered == server.complete(PROMPTS[1], spec("v1", 3.0))["text"]
    assert steered != server.complete(PROMPTS[1])["text"]


REFUSED = {
    "an unknown vector": (spec("nobody"), "no vector named 'nobody'"),
    "a path": (spec("../v0"), "no name of a vector"),
    "an absolute path": (spec("/etc/passwd"), "no name of a vector"),
    "a name with a null byte": (spec("v0\x00"), "no name of a vector"),
    "a very long name": (spec("v" * 5000), "no name of a vector"),
    "a digest of nothing": (spec("sha256-" + "0" * 64), "nothing is kept under"),
    "no JSON": ({"steersman": "{"}, "JSON"),
    "a number": ({"steersman": 3}, "must be a spec"),
    "an unknown key": (spec(strenght=2), "unknown key 'strenght'"),
    "an unknown flat key": ({"steersman_vector": "v0", "steersman_layer": 3}, "unknown key"),
    "a layer that there is not": (spec(layers=[99]), "layer 99"),
    "a strength that is no number": (spec(strength=float("nan")), "strength"),
    "positions without a token": (spec(positions="prompt[90]"), "select no token"),
    "words that are no positions": (spec(positions="everywhere"), "positions"),
    "a condition above what it decides": (spec(when={"vector": "v1", "layer": 9, "above": 0.0}), "clean pass"),
    "a rotation": (spec(operation="rotate", angle=0.5), "rotation"),
    "heads": (spec(heads=[[1, 0]]), "heads"),
    "too many steps": (spec(strength=[float(n) for n in range(40)]), "STEERSMAN_PROGRAMS"),
    "reading from an engine that serves": ({"steersman.read": "x"}, "steersman.read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_an_error_400_that_says_why_and_the_engine_lives(name, server):
    steer, message = REFUSED[name]
    before = server.complete(PROMPTS[2])["text"]
    status, found = server.call("POST", "/v1/completions", body(PROMPTS[2], steer))
    assert status == 400, found
    assert message in found["error"]["message"]
    # vLLM begins to answer before it looks at what it is to stream: the error is the only event
    _, events = server.call("POST", "/v1/completions", body(PROMPTS[2], steer, stream=True))
    (event,) = (json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {"))
    assert event["error"]["code"] == 400
    assert message in event["error"]["message"]
    assert server.complete(PROMPTS[2])["text"] == before


def test_vectors_are_listed_stored_replaced_and_deleted_while_it_serves(server, folder, model, pool, tmp_path):
    status, found = server.call("GET", "/v1/steersman/vectors")
    assert status == 200
    assert [each["name"] for each in found["vectors"]] == ["v0", "v1", "v2", "v3"]
    assert found["vectors"][0]["d_model"] == model.d_model

    always = spec("new", 1.0, positions="all")
    texts = []
    for seed in (11, 12):
        new = sm.SteeringVector({8: 6 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))})
        new.save(tmp_path / "new.safetensors")
        content = (tmp_path / "new.safetensors").read_bytes()
        status, stored = server.call("PUT", "/v1/steersman/vectors/new", content)
        assert status == 200, stored
        plan = sm.Add(new, layers=8, positions="all")
        texts.append(server.complete(PROMPTS[0], always)["text"])
        assert texts[-1] == model.generate(PROMPTS[0], steer=plan, max_new_tokens=12)
    assert texts[0] != texts[1]

    assert server.call("DELETE", "/v1/steersman/vectors/new") == (200, {"deleted": "new"})
    assert server.call("DELETE", "/v1/steersman/vectors/new")[0] == 404
    assert server.call("POST", "/v1/completions", body(PROMPTS[0], always))[0] == 400
    assert not (folder / "new.safetensors").exists()


@pytest.mark.parametrize("name", ["..%2Fescaped", ".hidden", "a%00b", "x" * 200])
def test_hostile_uploads_reach_no_file(name, server, folder):
    before = sorted(path.name for path in folder.parent.rglob("*"))
    status, _ = server.call("PUT", f"/v1/steersman/vectors/{name}", b"\x00" * 64)
    assert status in (400, 404)
    assert sorted(path.name for path in folder.parent.rglob("*")) == before


def test_a_damaged_upload_is_refused_and_stores_nothing(server, folder):
    status, found = server.call("PUT", "/v1/steersman/vectors/bad", b"\x00" * 64)
    assert status == 400, found
    assert not (folder / "bad.safetensors").exists()


def test_stats_tell_what_was_steered(server):
    steps = server.call("GET", "/v1/steersman/stats")[1]["workers"][0]["steered_steps"]
    server.complete(PROMPTS[0])
    assert server.call("GET", "/v1/steersman/stats")[1]["workers"][0]["steered_steps"] == steps
    server.complete(PROMPTS[0], spec())
    (worker,) = server.call("GET", "/v1/steersman/stats")[1]["workers"]
    assert worker["steered_steps"] > steps
    assert worker["self_check"] == "passed"


# -- with steer serve --engine vllm in front ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied(server, tmp_path_factory):
    settings = Settings(tmp_path_factory.mktemp("before"), port=0, name="m")
    listening = bound(settings)
    settings = replace(settings, port=listening.getsockname()[1])
    app = create_proxy(settings, f"http://127.0.0.1:{server.port}")
    app.state.proxy.presets.put("strong", spec("v1", 3.0))
    with in_thread(listening_server(app, settings), listening):
        yield f"http://127.0.0.1:{settings.port}"


@pytest.fixture(scope="module")
def client(proxied):
    direct = httpx.Client(timeout=120, verify=False, trust_env=False)
    return openai.OpenAI(base_url=f"{proxied}/v1", api_key="none", max_retries=0, http_client=direct)


def test_in_front_of_it_completions_and_chats_are_steered_streamed_or_not(client, model, pool):
    steer = spec("v1", 3.0)
    wanted = model.generate(PROMPTS[0], steer=plan_of(steer, pool), max_new_tokens=12)
    plain = model.generate(PROMPTS[0], max_new_tokens=12)
    assert wanted != plain
    for name, more, expected in (
        ("m", {"steering": steer}, wanted), ("m", {"steering": ["v1:3@8"]}, wanted), ("m:strong", {}, wanted),
        ("m:strong", {"steering": None}, plain), ("m", {}, plain),
    ):  # fmt: skip
        asked = {"model": name, "prompt": PROMPTS[0], "max_tokens": 12, "extra_body": more}
        assert client.completions.create(**asked).choices[0].text == expected
        chunks = list(client.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == expected

    chat = [{"role": "user", "content": "Tell me about the weather."}]
    asked = {"model": "m", "messages": chat, "max_tokens": 12, "extra_body": {"steering": steer}}
    text = model.generate(chat, steer=plan_of(steer, pool), max_new_tokens=12)
    assert client.chat.completions.create(**asked).choices[0].message.content == text
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text


def test_in_front_of_it_baselines_come_along_and_choices_say_what_was_applied(client, model, pool):
    plan = plan_of(spec("v1", 3.0), pool)
    more = {"extra_body": {"steering": spec("v1", 3.0), "baseline": True}}
    asked = {"model": "m", "prompt": [PROMPTS[0], PROMPTS[2]], "max_tokens": 12, **more}
    wanted = [model.generate(prompt, steer=plan, max_new_tokens=12) for prompt in asked["prompt"]]
    plain = [model.generate(prompt, max_new_tokens=12) for prompt in asked["prompt"]]
    answer = client.completions.create(**asked)
    assert [choice.text for choice in answer.choices] == wanted + plain
    assert [choice.arm for choice in answer.choices] == ["steered"] * 2 + ["baseline"] * 2
    texts, last = [""] * 4, {}
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            last[choice.index] = choice
    assert texts == wanted + plain
    assert chunk.usage == answer.usage
    for index, prompt in enumerate(asked["prompt"]):
        told = answer.choices[index].steering
        assert told == last[index].steering
        assert told["digest"] == plan.digest
        (item,) = told["interventions"]
        assert (item["vector"], item["layers"], item["sites"]) == ("v1", [8], ["resid_post"])
        count = len(model.tokens.encode(prompt))
        assert item["tokens"]["prompt"] == (count if plan.interventions[0].positions.everywhere else 1)
        assert 0 < item["tokens"]["generation"] <= 11
        assert last[2 + index].steering["interventions"] == []

    chat = [{"role": "user", "content": "Tell me about the weather."}]
    found = client.chat.completions.create(model="m", messages=chat, max_tokens=12, **more)
    assert found.choices[0].message.content == model.generate(chat, steer=plan, max_new_tokens=12)
    assert found.choices[1].message.content == model.generate(chat, max_new_tokens=12)
    arms = {"steered": "", "baseline": ""}
    for chunk in client.chat.completions.create(model="m", messages=chat, max_tokens=12, stream=True, **more):
        for choice in chunk.choices:
            arms[choice.arm] += choice.delta.content or ""
            last[choice.arm] = choice
    assert list(arms.values()) == [choice.message.content for choice in found.choices]
    assert last["steered"].steering == found.choices[0].steering
    assert found.choices[0].steering["interventions"][0]["tokens"]["prompt"] == 1


def test_in_front_of_it_refusals_say_why(client):
    for steering, message in (
        (spec(operation="rotate", angle=0.5), "rotation"), (spec(strength=1e9), "strength"),
        (spec(layers=[99]), "layer 99"), (3, "steering"),
    ):  # fmt: skip
        for stream in (False, True):
            asked = {"model": "m", "prompt": PROMPTS[0], "max_tokens": 4, "extra_body": {"steering": steering}}
            with pytest.raises(openai.BadRequestError, match=message):
                client.completions.create(**asked, stream=stream)
    with pytest.raises(openai.NotFoundError, match="no vector named 'nobody'"):
        client.completions.create(model="m", prompt=PROMPTS[0], extra_body={"steering": spec("nobody")})
    with pytest.raises(openai.NotFoundError, match="strnog"):
        client.completions.create(model="m:strnog", prompt=PROMPTS[0])
    assert client.completions.create(model="m", prompt=PROMPTS[0], max_tokens=2).choices[0].text


def test_in_front_of_it_vectors_are_stored_where_vllm_reads_them(proxied, client, model, tmp_path):
    new = sm.SteeringVector({8: 6 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(13))})
    new.save(tmp_path / "new.safetensors")
    with httpx.Client(base_url=proxied, timeout=120, verify=False, trust_env=False) as http:
        stored = http.put("/v1/vectors/fresh", content=(tmp_path / "new.safetensors").read_bytes())
        assert stored.status_code == 200, stored.text
        assert "fresh" in {one["name"] for one in http.get("/v1/vectors").json()["data"]}
        asked = {"model": "m", "prompt": PROMPTS[0], "max_tokens": 12, "extra_body": {"steering": ["fresh:1@8"]}}
        wanted = model.generate(PROMPTS[0], steer=sm.Add(new, layers=8), max_new_tokens=12)
        assert client.completions.create(**asked).choices[0].text == wanted
        assert http.put("/v1/vectors/bad", content=b"\x00" * 64).status_code == 400
        assert http.delete("/v1/vectors/fresh").status_code == 200
        with pytest.raises(openai.NotFoundError, match="fresh"):
            client.completions.create(**asked)
        assert http.get("/ready").status_code == 200

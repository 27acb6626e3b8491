"""The spec: one JSON form of a plan, read strictly, with errors that name the place and the fix."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.language.strategies import WIDTH, eraser, plans, tensor, vector

from steersman import Ablate, Add, Erase, Plan, Replace, Resample, Rotate, When, Zero, heads, neurons, schedule, site
from steersman.errors import SpecError, SteersmanError
from steersman.operations import OPERATIONS
from steersman.spec import InterventionSpec, from_flat_keys, json_schema, parse_token, validate

V = tensor(WIDTH)
NAMED = {"happy": vector(), "harm": vector(1, name="harm"), "gender": eraser(), "row": V, "org/repo": vector(2)}


def read(**item: Any) -> Plan:
    return Plan.from_spec({"interventions": [item]}, NAMED)


def refused(document: Any) -> str:
    with pytest.raises(SpecError) as error:
        Plan.from_spec(document, NAMED)
    return str(error.value)


# -- what is written is what is read -----------------------------------------------------------------------------


def test_the_example_of_the_documentation_reads_as_it_says() -> None:
    document = {
        "interventions": [
            {
                "vector": "happy", "strength": 1.5, "layers": [2], "operation": "add", "positions": "last+generation",
                "when": {"vector": "harm", "layer": 3, "above": 0.3},
            }
        ]
    }  # fmt: skip
    expected = Plan([Add(NAMED["happy"], 1.5, layers=2, when=When(NAMED["harm"], 3, above=0.3))])
    assert Plan.from_spec(document, NAMED) == expected
    assert Plan.from_spec(json.dumps(document), NAMED) == expected
    assert expected.spec()["interventions"][0]["when"] == {
        "vector": "harm", "layer": 3, "above": 0.3, "measure": "cosine",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"vector": "happy"}, Add(vector())),
        ({"vector": "happy", "layers": "1-2"}, Add(vector(), layers=[1, 2])),
        ({"vector": "happy", "layers": {"1": 0.5, "2": 2}}, Add(vector(), layers={1: 0.5, 2: 2})),
        ({"vector": "happy", "layers": {1: 0.5}}, Add(vector(), layers={1: 0.5})),
        ({"vector": "happy", "layers": -1}, Add(vector(), layers=-1)),
        ({"vector": "happy", "strength": [2, 1.5]}, Add(vector(), schedule([2, 1.5]))),
        ({"vector": "happy", "unit": "norm"}, Add(vector(), unit="norm")),
        ({"vector": "happy", "unit": None, "site": None}, Add(vector())),
        (
            {"vector": "happy", "positions": {"prompt": [0, 3], "generation": [0]}},
            Add(vector(), positions="prompt[0]+prompt[3]+generation[0]"),
        ),
        ({"operation": "ablate", "vector": "row"}, Ablate(V)),
        ({"operation": "ablate", "direction": "row"}, Ablate(V)),
        ({"operation": "ablate", "direction": "row", "vector": "row"}, Ablate(V)),
        ({"operation": "erase", "eraser": "gender"}, Erase(eraser())),
        ({"operation": "rotate", "vector": "happy", "angle": 1}, Rotate(vector(), 1)),
        (
            {"operation": "replace", "values": "row", "layers": 1, "positions": "all"},
            Replace(V, layers=1, positions="all"),
        ),
        ({"operation": "zero", "heads": [[1, 0], [1, 1], [2, 0], [2, 1]]}, Zero(heads([1, 2], [0, 1]))),
        ({"operation": "zero", "heads": [["all", 1]]}, Zero(heads("all", 1))),
        ({"operation": "zero", "neurons": [[3, 4]]}, Zero(neurons(3, 4))),
        ({"operation": "zero", "site": "mlp_out"}, Zero(site("mlp_out"))),
        ({"operation": "zero", "site": "mlp_out", "layers": "1-2"}, Zero(site("mlp_out", "1-2"))),
        ({"operation": "resample", "site": "z", "reference": "row", "seed": 7}, Resample(site("z"), V, seed=7)),
    ],
)  # fmt: skip
def test_each_key_bears_its_python_name(item: dict[str, Any], expected: Any) -> None:
    assert read(**item) == Plan([expected])


def test_heads_that_differ_by_layer_become_one_intervention_for_each_choice() -> None:
    found = read(operation="zero", heads=[[1, 0], [2, 1], [3, 0]])
    assert found == Plan([Zero(heads([1, 3], 0)), Zero(heads(2, 1))])


@given(plans)
@settings(max_examples=60)
def test_every_spec_that_is_written_follows_the_schema_and_is_plain_json(plan: Plan) -> None:
    text = json.dumps(plan.spec(), allow_nan=False)
    assert validate(text).model_dump(exclude_unset=True).keys() == {"interventions"}
    assert Plan.from_spec(text, plan.entries()) == plan
    properties = json_schema()["$defs"]["InterventionSpec"]["properties"]
    assert all(item.keys() <= properties.keys() for item in json.loads(text)["interventions"])


def test_the_schema_is_closed_and_knows_every_operation_that_is_data() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
    operations = schema["$defs"]["InterventionSpec"]["properties"]["operation"]["enum"]
    assert set(operations) == set(OPERATIONS) - {"custom"}
    taken = {name for cls in OPERATIONS.values() for name in (*cls.tensors, *cls.plain)} - {"where"}
    assert taken <= set(InterventionSpec.model_fields)


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "interventions: Field required"),
        ([], "the spec: Input should be an object"),
        ("happy", "the spec: Invalid JSON"),
        ("", "the spec: Invalid JSON"),
        ({"intervention": []}, "intervention: unknown key 'intervention'; did you mean 'interventions'?"),
        ({"interventions": [], "version": 2}, "version: unknown key 'version'; the keys here are interventions"),
        ({"interventions": {"vector": "happy"}}, "interventions: Input should be a valid array"),
        ({"interventions": ["happy:1"]}, "interventions.0: Input should be an object"),
        ({"interventions": [{"vectr": "happy"}]}, "interventions.0.vectr: unknown key 'vectr'; did you mean 'vector'?"),
        ({"interventions": [{"colour": 1}]}, "unknown key 'colour'; the keys here are operation, vector, direction"),
        (
            {"interventions": [{"vector": "happy", "when": {"vector": "harm", "layer": 1, "abve": 1}}]},
            "interventions.0.when.abve: unknown key 'abve'; did you mean 'above'?",
        ),
        (
            {"interventions": [{"vector": "happy", "positions": {"promt": [1]}}]},
            "unknown key 'promt'; did you mean 'prompt'?",
        ),
    ],
)
def test_what_breaks_the_schema_is_refused_by_place_and_key(document: Any, message: str) -> None:
    assert message in refused(document)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"vector": "hapy"}, "interventions.0: no vector named 'hapy'; did you mean 'happy'?"),
        ({"vector": "xyz"}, "no vector named 'xyz'; there are gender, happy, harm, org/repo, row"),
        ({"vector": "happy", "when": {"vector": "hrm", "layer": 1, "above": 0}}, "did you mean 'harm'?"),
        ({}, "'add' needs 'vector'"),
        ({"operation": "ablate", "layers": [1]}, "'ablate' needs 'vector'"),
        (
            {"operation": "ablate", "direction": "row", "vector": "happy"},
            '"vector" and "direction" say the same; give one',
        ),
        ({"operation": "clamp", "vector": "happy"}, "'clamp' needs 'value'"),
        ({"operation": "affine", "vector": "happy"}, "'affine' needs 'alpha'"),
        ({"operation": "rotate", "vector": "happy"}, "'rotate' needs 'angle'"),
        ({"operation": "erase"}, "'erase' needs 'eraser'"),
        ({"operation": "mean", "site": "mlp_out"}, "'mean' needs 'means'"),
        ({"operation": "resample", "heads": [[1, 1]]}, "'resample' needs 'reference'"),
        ({"operation": "zero"}, 'name one of "heads", "neurons", or "site" with "layers"'),
        ({"operation": "zero", "heads": [[1, 1]], "neurons": [[1, 1]]}, "name one of"),
        ({"operation": "zero", "heads": []}, '"heads" is empty; name at least one [layer, index]'),
        ({"operation": "zero", "heads": [[1, 1]], "layers": [2]}, '"heads" names its own layers; leave "layers" out'),
        ({"operation": "zero", "site": "mlp_out", "layers": {"1": 0.5}}, '"layers" weighs layers'),
        ({"operation": "zero", "site": "mlp"}, "unknown site 'mlp'"),
        ({"operation": "zero", "site": "mlp_out", "value": 1}, "'zero' takes no value; it takes heads, layers"),
        (
            {"vector": "happy", "alpha": 1},
            "'add' takes no alpha; it takes layers, positions, site, strength, unit, vector",
        ),
        ({"vector": "happy", "heads": [[1, 1]]}, "'add' takes no heads"),
        ({"operation": "custom", "vector": "happy"}, "interventions.0.operation: Input should be 'add', 'ablate'"),
        ({"operation": "erase", "eraser": "happy"}, "Erase() needs an Eraser, got SteeringVector"),
        ({"vector": "gender"}, "must be a tensor of real numbers, got Eraser"),
        ({"operation": "affine", "vector": "row", "alpha": 1}, "needs a SteeringVector that knows its class means"),
        ({"vector": "happy", "strength": "1"}, "interventions.0.strength"),
        ({"vector": "happy", "strength": True}, "interventions.0.strength"),
        ({"vector": "happy", "strength": math.nan}, "should be a finite number"),
        ({"vector": "happy", "strength": math.inf}, "should be a finite number"),
        ({"vector": "happy", "strength": [1, math.inf]}, "should be a finite number"),
        ({"vector": "happy", "strength": []}, "a schedule needs at least one strength"),
        ({"vector": "happy", "strength": 10**400}, "interventions.0"),
        ({"vector": "happy", "layers": [1.5]}, "interventions.0.layers"),
        ({"vector": "happy", "layers": []}, "no layers given"),
        ({"vector": "happy", "layers": {}}, "names no layer"),
        ({"vector": "happy", "layers": {"x": 1}}, "layers names 'x', which is no layer index"),
        ({"vector": "happy", "layers": {"9" * 5000: 1}}, "which is no layer index"),
        ({"vector": "happy", "layers": "0-999999999999"}, "is neither"),
        ({"vector": "happy", "positions": "sometimes"}, "positions='sometimes' cannot be read"),
        ({"vector": "happy", "positions": {"prompt": []}}, "positions lists no index"),
        ({"vector": "happy", "positions": "prompt[" + "9" * 5000 + "]"}, "is no Python index"),
        ({"vector": "happy", "when": {"vector": "harm", "layer": 1}}, "needs one threshold"),
        ({"vector": "happy", "unit": "sigma"}, "Input should be 'norm' or 'gap'"),
        ({"vector": "happy", "strength": [1, 2], "positions": "all"}, "a schedule begins at the last prompt token"),
        ({"vector": b"happy"}, "the spec is not JSON"),
    ],
)
def test_what_makes_no_sense_is_refused_by_place(item: dict[str, Any], message: str) -> None:
    assert message in refused({"interventions": [item]})


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"interventions":[{"when":'])
def test_deep_nesting_is_refused(opening: str) -> None:
    refused(opening * 100_000)


def test_deep_nesting_of_python_objects_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    refused({"interventions": deep})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("happy"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(InterventionSpec.model_fields)), json_values, max_size=5))
def test_no_json_does_worse_than_be_refused(item: dict[str, Any]) -> None:
    with suppress(SteersmanError):
        Plan.from_spec({"interventions": [item]}, NAMED)


# -- shorthands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("happy", {"vector": "happy"}),
        ("happy:1.5@10-14", {"vector": "happy", "strength": 1.5, "layers": [10, 11, 12, 13, 14]}),
        ("happy:-2@6,8,10-11", {"vector": "happy", "strength": -2.0, "layers": [6, 8, 10, 11]}),
        ("happy:+.5", {"vector": "happy", "strength": 0.5}),
        ("happy:1e-3", {"vector": "happy", "strength": 0.001}),
        ("happy@3", {"vector": "happy", "layers": [3]}),
        ("iti:15@all", {"vector": "iti", "strength": 15.0, "layers": "all"}),
        ("  happy:1 ", {"vector": "happy", "strength": 1.0}),
        ("org/repo:1@2", {"vector": "org/repo", "strength": 1.0, "layers": [2]}),
        (
            r"C:\vectors\happy.safetensors:2@3",
            {"vector": r"C:\vectors\happy.safetensors", "strength": 2.0, "layers": [3]},
        ),
        (r"C:\happy.safetensors", {"vector": r"C:\happy.safetensors"}),
        ("./a:b/happy.safetensors:1", {"vector": "./a:b/happy.safetensors", "strength": 1.0}),
        ("me@home.safetensors@3", {"vector": "me@home.safetensors", "layers": [3]}),
        ("happy:much", {"vector": "happy:much"}),
    ],
)
def test_a_token_names_a_vector_a_strength_and_layers(token: str, expected: dict[str, Any]) -> None:
    assert parse_token(token) == expected


@pytest.mark.parametrize("token", ["", "  ", "happy@5-3", "happy@1-", "happy@,", "happy@-1", "happy@0-999999999"])
def test_a_token_that_cannot_be_read_is_refused(token: str) -> None:
    with pytest.raises(SpecError):
        parse_token(token)


@given(
    st.from_regex(r"[a-z][a-z/_.-]{0,9}", fullmatch=True), st.floats(-1e9, 1e9), st.sets(st.integers(0, 99), min_size=1)
)
def test_a_token_says_what_the_spec_says(name: str, strength: float, layers: set[int]) -> None:
    token = f"{name}:{strength}@{','.join(map(str, sorted(layers)))}"
    assert parse_token(token) == {"vector": name, "strength": strength, "layers": sorted(layers)}


def test_a_token_is_an_intervention() -> None:
    assert read(**parse_token("org/repo:-0.5@1-2")) == Plan([Add(NAMED["org/repo"], -0.5, layers=[1, 2])])
    assert read(**parse_token("happy:-2@all")) == Plan([Add(NAMED["happy"], -2, layers="all")])
    assert "did you mean 'happy'?" in refused({"interventions": [parse_token("hapy:1")]})
    assert "finite" in refused({"interventions": [parse_token("happy:1e999")]})


def test_flat_keys_are_one_intervention() -> None:
    flat = {
        "steersman_vector": "row", "steersman_strength": 2, "steersman_layers": "1-2", "steersman_positions": "all",
        "steersman_operation": "ablate",
    }  # fmt: skip
    assert Plan.from_spec(from_flat_keys(flat), NAMED) == Plan([Ablate(V, 2, layers=[1, 2])])
    with pytest.raises(SpecError, match="unknown key 'steersman_alpha'; the flat keys are steersman_vector"):
        from_flat_keys({"steersman_alpha": 1})
    with pytest.raises(SpecError, match="unknown key 'vector'"):
        from_flat_keys({"vector": "happy"})
    with pytest.raises(SpecError, match="steersman_vector is missing"):
        from_flat_keys({"steersman_strength": 1})


def test_entries_given_as_other_sequences_than_tensors_work_too() -> None:
    assert Plan.from_spec({"interventions": [{"vector": "v", "layers": [1]}]}, {"v": [1.0, 2.0]}) == Plan(
        [Add(torch.tensor([1.0, 2.0]), layers=1)]
    )

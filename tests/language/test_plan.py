"""A plan is data: comparable, composable, hashed, and the same after a file."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from tests.language.strategies import WIDTH, eraser, interventions, plans, shape, tensor, vector

from steersman import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Custom,
    Erase,
    LayerValues,
    Mean,
    Plan,
    Replace,
    Resample,
    Rotate,
    SteeringVector,
    When,
    Zero,
    heads,
    mlp,
    schedule,
    site,
)  # fmt: skip
from steersman.errors import InterventionError, UnsupportedError
from steersman.operations import OPERATIONS, Intervention
from steersman.vector import Origin

V = tensor(WIDTH)

ONE_OF_EACH: list[Intervention] = [
    Add(vector(), 1.5, layers={1: 0.5, 2: 1}, unit="norm", when=When(V, 0, above=0.3)),
    Ablate(tensor(2, WIDTH), layers="all"),
    Clamp(vector(), 2.0, "below", positions="prompt[1:]"),
    Affine(vector(), 0.5),
    Erase(eraser()),
    Rotate(V, 1.0, plane=tensor(WIDTH, seed=1), layers=1, strength=schedule([1, 2])),
    Replace(LayerValues({1: tensor(2, WIDTH)}), positions="last"),
    Zero(heads([1, 2], [1, 0])),
    Mean(mlp(1), V),
    Resample(site("resid_mid"), tensor(5, WIDTH), seed=3),
]


def test_every_operation_that_can_be_saved_is_among_the_examples() -> None:
    assert {type(item) for item in ONE_OF_EACH} == set(OPERATIONS.values()) - {Custom}


# -- composition -------------------------------------------------------------------------------------------------


@given(plans, plans, plans)
@settings(max_examples=25)
def test_plans_append_in_order(a: Plan, b: Plan, c: Plan) -> None:
    assert (a + b) + c == a + (b + c)
    assert list(a + b) == [*a, *b]
    assert a + None == None + a == a == a + [] == [] + a
    assert len(a + b) == len(a) + len(b)
    assert bool(a) == (len(a) > 0)
    assert a + b == Plan(list(a)) + tuple(b)


def test_order_matters_and_repetition_counts() -> None:
    a, b = Add(V, layers=1), Ablate(V)
    assert Plan([a, b]) != Plan([b, a])
    assert Plan([a]) != Plan([a, a])
    assert Plan([a, b])[1] is b
    assert repr(Plan([a, b])) == "Plan([Add(tensor), Ablate])"


def test_whatever_users_pass_as_steer_becomes_a_plan() -> None:
    item = Add(V, layers=1)
    expected = Plan([item])
    for value in (item, [item], (item,), iter([item]), expected):
        assert Plan.of(value) == expected
    assert Plan.of(None) == Plan() == Plan([])


@pytest.mark.parametrize(
    ("value", "name"),
    [(V, "Tensor"), (vector(), "SteeringVector"), ("happy:1", "str"), (5, "int"), ([V], "Tensor"), ({"a": 1}, "str")],
)
def test_what_is_no_intervention_is_refused_by_its_type(value: Any, name: str) -> None:
    for make in (Plan.of, Plan):
        with pytest.raises(InterventionError, match=f"such as Add\\(vector, layers=10\\), got {name}"):
            make(value)


# -- identity ----------------------------------------------------------------------------------------------------


@given(interventions)
@settings(max_examples=60)
def test_equal_parts_make_equal_plans_and_hashes(item: Intervention) -> None:
    names = [f.name for f in fields(item)]  # type: ignore[arg-type]
    again = type(item)(**{name: getattr(item, name) for name in names})
    assert again == item
    assert hash(again) == hash(item)
    assert {Plan([item]), Plan([again])} == {Plan([item])}
    assert item != "add"
    assert Plan([item]) != item


CHANGES: dict[type, list[dict[str, Any]]] = {
    Add: [
        {"vector": vector(1)}, {"vector": vector(layer=2)}, {"unit": "gap"}, {"vector": vector(site="resid_pre")},
        {"vector": vector(norms={1: 3, 2: 3})}, {"vector": vector(origin=None)}, {"layers": {1: 0.5, 2: 2}},
        {"when": When(V, 0, above=0.4)}, {"when": When(V, 0, below=0.3)}, {"when": When(V, 1, above=0.3)},
        {"when": When(V, 0, above=0.3, measure="projection")}, {"when": When(-V, 0, above=0.3)}, {"when": None},
        {"site": "resid_pre"},
    ],
    Ablate: [{"direction": tensor(WIDTH)}, {"direction": tensor(2, WIDTH, seed=1)}, {"layers": [1]}, {"layers": None}],
    Clamp: [{"value": 3}, {"side": "above"}, {"vector": vector(1)}, {"vector": vector()[0], "layers": 0}],
    Affine: [{"alpha": 0.6}, {"vector": vector(projections={0: (1, 2)})}],
    Erase: [{"eraser": eraser(1)}, {"layers": [1]}, {"eraser": eraser(origin=Origin.of(shape()))}],
    Rotate: [{"angle": 2}, {"plane": None}, {"plane": tensor(WIDTH, seed=2)}, {"strength": [1, 3]}],
    Replace: [{"values": {2: tensor(2, WIDTH)}}, {"values": LayerValues({1: tensor(2, WIDTH)}, "attn_out")}],
    Zero: [{"where": heads([1, 2], [1])}, {"where": heads([1, 3], [1, 0])}, {"where": heads([1, 2])}],
    Mean: [{"means": -V}, {"where": mlp(2)}, {"means": {1: V}}],
    Resample: [{"seed": 4}, {"reference": tensor(5, WIDTH, seed=1)}],
}  # fmt: skip


@pytest.mark.parametrize("item", ONE_OF_EACH, ids=lambda item: type(item).__name__)
def test_the_digest_changes_with_whatever_changes_what_is_done(item: Intervention) -> None:
    schedules = isinstance(item, Rotate)
    changes = [{"strength": 1.25}, {"positions": "last" if schedules else "prompt[2]"}, *CHANGES[type(item)]]
    if item.when is None:
        changes.append({"when": When(V, 0, above=0.3)})
    digests = [item.digest(), *(replace(item, **change).digest() for change in changes)]  # type: ignore[type-var]
    assert len(set(digests)) == len(digests)
    assert len(item.digest()) == len(Plan([item]).digest) == 64


def test_names_and_notes_do_not_make_another_plan() -> None:
    assert Add(vector()) == Add(replace(vector(), name="joy", metadata={}, quality=None, method=None))


def test_two_functions_make_two_plans() -> None:
    def make(fn: Any) -> Custom:
        return Custom(fn, layers=1, site="z", positions="all")

    assert make(print) == make(print)
    assert make(print) != make(repr)


def test_a_plan_is_not_changed_by_what_happens_to_the_users_tensors() -> None:
    v, means, write = tensor(WIDTH), {1: tensor(WIDTH)}, tensor(WIDTH)
    layers = {1: 1.0}
    plan = Plan([Add(v, layers=layers), Mean(mlp(1), means), Ablate(write), Add(SteeringVector({1: v}), layers=1)])
    before = plan.digest
    v.zero_(), means[1].zero_(), means.clear(), write.mul_(-1), layers.clear()
    assert plan.digest == before
    assert plan.actions(shape())[0].map(torch.zeros(1, WIDTH)).abs().sum() > 0


def test_interventions_cannot_be_changed() -> None:
    for item in (*ONE_OF_EACH, Plan(ONE_OF_EACH)):
        name = fields(item)[0].name  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            setattr(item, name, None)


def test_gradients_are_wanted_if_any_tensor_wants_them() -> None:
    v = tensor(WIDTH).requires_grad_()
    assert not Plan(ONE_OF_EACH).requires_grad
    assert Plan([*ONE_OF_EACH, Add(v, layers=1)]).requires_grad
    assert Plan([Add(V, layers=1, when=When(v, 0, above=0))]).requires_grad


# -- files -------------------------------------------------------------------------------------------------------


@given(plan=plans)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plan_survives_its_file_and_its_spec(plan: Plan, tmp_path: Path) -> None:
    assert Plan.from_spec(plan.spec(), plan.entries()) == plan
    back = Plan.load(plan.save(tmp_path / "plan.safetensors"))
    assert back == plan
    assert back.spec() == plan.spec()
    assert back.digest == plan.digest


@pytest.mark.parametrize("item", ONE_OF_EACH, ids=lambda item: type(item).__name__)
def test_each_operation_survives_a_file_and_acts_the_same_after(item: Intervention, tmp_path: Path) -> None:
    plan = Plan([item, item])
    back = Plan.load(plan.save(tmp_path / "plan.safetensors"))
    assert back == plan
    h = tensor(2, WIDTH, seed=9)
    for old, new in zip(plan.actions(shape()), back.actions(shape()), strict=True):
        assert (old.component, old.layer, old.strength, old.source) == (
            new.component,
            new.layer,
            new.strength,
            new.source,
        )
        if old.map.affine is not None:
            assert torch.equal(old.map(h), new.map(h))


def test_entries_keep_everything_a_vector_knows(tmp_path: Path) -> None:
    plan = Plan([Add(vector()), Erase(eraser()), Mean(mlp(1), LayerValues({1: V}, "mlp_out", "means", None, {"n": 3}))])
    entries = Plan.load(plan.save(tmp_path / "plan.safetensors")).entries()
    assert list(entries) == ["happy", "gender", "means"]
    assert entries["happy"] == vector()
    assert (entries["gender"].name, entries["gender"].layers) == ("gender", (1, 2))
    assert (entries["means"].site, entries["means"].metadata) == ("mlp_out", {"n": 3})


def test_one_vector_used_twice_is_one_entry_and_two_of_one_name_are_two() -> None:
    twice = Plan([Add(vector()), Ablate(vector(), layers=1), Add(vector(1)), Add(V, layers=1), Add(-V, layers=1)])
    assert list(twice.entries()) == ["happy", "happy-2", "vector", "vector-2"]
    assert [item["vector"] for item in twice.spec()["interventions"]] == [
        "happy", "happy", "happy-2", "vector", "vector-2",
    ]  # fmt: skip


def test_a_function_is_not_saved(tmp_path: Path) -> None:
    plan = Plan([Add(V, layers=1), Custom(print, layers=1, site="z", positions="all")])
    for attempt in (plan.spec, plan.entries, lambda: plan.save(tmp_path / "p.safetensors")):
        with pytest.raises(UnsupportedError, match="a function is not data"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_evidence_goes_into_the_file_and_is_no_part_of_what_a_plan_is(tmp_path: Path) -> None:
    evidence = {"kind": "sweep", "row": {"layer": 1, "effect": 0.5, "p_value": None}, "layers": (1, 2)}
    one = Add(torch.ones(WIDTH), 2.0, layers=1)
    plain, chosen = Plan(one), Plan(one, evidence)
    assert plain == chosen
    assert hash(plain) == hash(chosen)
    assert plain.spec() == chosen.spec()
    assert Plan.of(chosen).evidence == {**evidence, "layers": [1, 2]}
    assert (chosen + plain).evidence is None  # a choice of one plan says nothing of two
    assert Plan.load(chosen.save(tmp_path / "plan.safetensors")).evidence == chosen.evidence
    assert Plan.load(plain.save(tmp_path / "plain.safetensors")).evidence is None
    evidence["kind"] = "other"
    assert chosen.evidence["kind"] == "sweep"  # a copy of its own
    with pytest.raises(InterventionError, match="evidence of a plan must be JSON"):
        Plan(one, {"p": float("nan")})
    with pytest.raises(InterventionError, match="mapping"):
        Plan(one, ["p"])  # pyright: ignore[reportArgumentType]

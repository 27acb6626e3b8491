"""What a worker does from step to step, held to brute force: whoever comes, goes, waits, or is put off."""

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vllm_units.test_vllm_units import WIDTH, at, drawn, shape

import steersman as sm
from steersman.conditions import Schedule
from steersman.engines.vllm.packing import pack
from steersman.engines.vllm.requests import Compiler, FrontEnd, carried
from steersman.engines.vllm.segments import resolve
from steersman.engines.vllm.settings import CONDITIONS, Settings
from steersman.engines.vllm.tables import Capacity, Program, Tables
from steersman.engines.vllm.worker import WorkerSteering
from steersman.positions import Positions
from steersman.registry import Registry

REQUESTS, TOKENS, PLACE = 3, 24, ("resid_post", 1)
POSITIONS = ("last", "generation", "last+generation", "prompt", "all", "prompt[1:3]", "generation[1:3]",
             "prompt[::2]+generation[1::2]")  # fmt: skip


def engine(folder, rank=2, programs=6, rows=2):
    """A front end and a worker with exactly the room that these settings make."""
    chosen = Settings.parse({"vectors": folder, "rank": rank, "programs": programs, "rows": rows})
    capacity = chosen.capacity(3, WIDTH, REQUESTS, TOKENS)
    front = FrontEnd(Registry(folder), shape(), capacity, rows, programs)
    places = [(site, layer) for layer in range(3) for site in ("mlp_out", "resid_post")]
    worker = WorkerSteering(
        Compiler(Registry(folder), shape()), Tables(places, WIDTH, capacity, torch.device("cpu")), []
    )
    return front, worker


class Request:
    """One that runs, and what its plan does to each of its tokens."""

    def __init__(self, name, draw, front, registry):
        self.name = name
        self.prompt, self.new = draw(st.integers(4, 9)), draw(st.integers(4, 7))
        self.items = draw(
            st.lists(st.tuples(st.integers(0, 3), st.sampled_from((1.0, -2.0)), st.sampled_from(POSITIONS)), max_size=2)
        )
        if draw(st.booleans()):
            self.items = [(0, sm.schedule([1.0, 0.0, 0.0, 2.0, 2.0, 3.0]), "last+generation")]
        plan = [sm.Add(drawn(WIDTH, seed=v), strength, layers=1, positions=p) for v, strength, p in self.items]
        resolved = front.resolve({"steersman": carried(plan, registry)}, self.prompt, self.new, None, None)
        self.extra = None if resolved is None else {"steersman": resolved.plain()}
        self.done, self.known = 0, self.prompt  # tokens that were run, and that there are

    def change(self, position):
        """What is added to the token at a position."""
        total = torch.zeros(WIDTH)
        for vector, strength, positions in self.items:
            spans = Positions.parse(positions).resolve(self.prompt, lambda text: None)
            if any(position in span for span in spans):
                scheduled = isinstance(strength, Schedule)
                total += (strength.at(position - self.prompt + 1) if scheduled else strength) * drawn(
                    WIDTH, seed=vector
                )
        return total


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_each_token_is_steered_as_its_own_request_says_whatever_the_steps(data):
    with tempfile.TemporaryDirectory() as folder:
        front, worker = engine(folder)
        registry = Registry(folder)
        live, finished = [], []
        for number in range(data.draw(st.integers(8, 25))):
            new = []
            if len(live) < REQUESTS and (not live or data.draw(st.integers(0, 3)) == 0):
                name = data.draw(st.sampled_from(("again", f"r{number}")))
                if name not in {request.name for request in live}:
                    live.append(Request(name, data.draw, front, registry))
                    new.append(live[-1])
            if data.draw(st.integers(0, 7)) == 0:
                put_off = data.draw(st.sampled_from(live))  # preempted: what was run is run anew
                put_off.done = 0
                new += [put_off] if put_off not in new else []
            worker.observe([(request.name, request.extra, request.prompt) for request in new], finished)
            rows = data.draw(st.permutations(live)) if data.draw(st.integers(0, 3)) == 0 else live
            room = TOKENS // REQUESTS
            counts = [min(request.known - request.done, room) for request in rows]
            if data.draw(st.booleans()):
                counts = [data.draw(st.integers(1, count)) for count in counts]
            worker.step([request.name for request in rows], counts, [request.done for request in rows])
            h = drawn(sum(counts) + 2, WIDTH, seed=number)  # two rows of padding
            changes = [
                request.change(request.done + i) for request, n in zip(rows, counts, strict=True) for i in range(n)
            ]
            expected = h + torch.stack([*changes, torch.zeros(WIDTH), torch.zeros(WIDTH)])
            torch.testing.assert_close(at(worker, PLACE, h), expected)
            assert torch.equal(at(worker, ("resid_post", 0), h), h)
            for request, count in zip(rows, counts, strict=True):
                request.done += count
                request.known += request.done == request.known
            finished = [request.name for request in live if request.known == request.prompt + request.new]
            live = [request for request in live if request.name not in finished]
        assert set(worker.requests) <= {request.name for request in live} | set(finished)


def test_every_request_may_use_all_that_it_is_promised_in_one_step(tmp_path):
    """Programs, rows, terms and conditions, of all requests at once: none is turned away by a worker."""
    front, worker = engine(tmp_path, rank=1 + CONDITIONS, programs=3, rows=3 + CONDITIONS)
    registry, names = Registry(tmp_path), [f"r{number}" for number in range(REQUESTS)]
    for request, name in enumerate(names):
        seeds = range(100 * request, 100 * request + 3 + CONDITIONS)
        vectors = [drawn(WIDTH, seed=seed) for seed in seeds]
        plan = [sm.Add(v, layers=1, positions=f"prompt[{n}]") for n, v in enumerate(vectors[:2])]
        # As many rules as conditions, of one program: what is generated under all of them.
        plan += [
            sm.Add(vectors[2], layers=2, positions="generation", when=sm.When(v, layer=0, above=0.0))
            for v in vectors[3:]
        ]
        resolved = front.resolve({"steersman": carried(plan, registry)}, 4, 5, None, None)
        assert len(resolved.steering.programs) == 3
        worker.observe([(name, {"steersman": resolved.plain()}, 4)], [])
    worker.step(names, [4] * REQUESTS, [0] * REQUESTS)
    h = drawn(4 * REQUESTS, WIDTH)
    at(worker, ("resid_post", 0), h)
    found = at(worker, PLACE, h) - h
    for request in range(REQUESTS):
        torch.testing.assert_close(found[4 * request], drawn(WIDTH, seed=100 * request), rtol=1e-4, atol=1e-5)
    worker.step(names, [1] * REQUESTS, [4] * REQUESTS)
    found = at(worker, ("resid_post", 2), h) - h
    for request in range(REQUESTS):
        whens = [sm.When(drawn(WIDTH, seed=100 * request + 3 + n), layer=0, above=0.0) for n in range(CONDITIONS)]
        holding = sum(bool(when.holds(h[4 * request + 3])) for when in whens)
        expected = holding * drawn(WIDTH, seed=100 * request + 2)
        torch.testing.assert_close(found[request], expected, rtol=1e-4, atol=1e-5)


def taken_in(front, worker, plans, prompt=3):
    """Lets a worker take in a request for each plan, by its name."""
    registry = Registry(front.compiler.registry.folder)
    for name, plan in plans.items():
        resolved = front.resolve({"steersman": carried(plan, registry)}, prompt, 9, None, None)
        worker.observe([(name, {"steersman": resolved.plain()}, prompt)], [])


def test_requests_that_change_rows_take_their_vectors_along(tmp_path):
    front, worker = engine(tmp_path)
    vectors = {name: drawn(WIDTH, seed=seed) for seed, name in enumerate("abc")}
    taken_in(front, worker, {n: sm.Add(v, layers=1, positions="all") for n, v in vectors.items()})
    h = drawn(2, WIDTH, seed=5)
    for position, names in enumerate(("ab", "ab", "ba", "ca", "ca", "ac")):
        worker.step(list(names), [1, 1], [position, position])
        torch.testing.assert_close(at(worker, PLACE, h), h + torch.stack([vectors[name] for name in names]))


def test_what_is_decided_at_a_chunk_of_one_token_is_not_decided_again(tmp_path):
    front, worker = engine(tmp_path)
    along, vector = torch.eye(WIDTH)[0], drawn(WIDTH)
    when = sm.When(along, layer=0, above=0.0)
    taken_in(front, worker, {"r": sm.Add(vector, layers=1, positions="last+generation", when=when)})
    for position, count, sign, steered in ((0, 2, -1, False), (2, 1, 1, True), (3, 1, -1, True), (4, 1, -1, True)):
        worker.step(["r"], [count], [position])
        at(worker, ("resid_post", 0), sign * along.expand(count, WIDTH))
        h = drawn(count, WIDTH, seed=position)
        torch.testing.assert_close(at(worker, PLACE, h), h + vector if steered else h)


@pytest.mark.parametrize(
    ("length", "cosine", "by_cosine", "by_projection"), [(10, 0.3, False, True), (0.1, 0.9, True, False)]
)
def test_conditions_tell_a_cosine_from_a_projection(length, cosine, by_cosine, by_projection, tmp_path):
    along, across = torch.eye(WIDTH)[:2]
    last = length * (cosine * along + (1 - cosine**2) ** 0.5 * across)
    for measure, holds in (("cosine", by_cosine), ("projection", by_projection)):
        front, worker = engine(tmp_path)
        when = sm.When(along, layer=0, measure=measure, above=0.5)
        taken_in(front, worker, {"r": sm.Add(drawn(WIDTH), layers=1, when=when)})
        worker.step(["r"], [3], [0])
        at(worker, ("resid_post", 0), torch.stack([-last, -last, last]))
        worker.step(["r"], [1], [3])
        h = drawn(1, WIDTH, seed=1)
        assert torch.equal(at(worker, PLACE, h), h) != holds


def programs_of(count):
    """Programs that each add a vector of their own."""
    packed = [pack(sm.Plan(sm.Add(drawn(WIDTH, seed=n), layers=1)).actions(shape())) for n in range(count)]
    return [Program(each, resolve(each, 3, 4, None, lambda text: None).programs[0]) for each in packed]


def test_the_program_that_was_not_used_for_longest_makes_room():
    tables = Tables([PLACE], WIDTH, Capacity(8, 2, 8, 2), torch.device("cpu"))
    a, b, c = programs_of(3)
    first, second = tables.slots_for({"a": a})["a"], tables.slots_for({"b": b})["b"]
    assert tables.slots_for({"a": a}) == {"a": first}
    assert tables.slots_for({"c": c}) == {"c": second}
    assert tables.slots_for({"a": a}) == {"a": first}


def test_more_than_there_is_room_for_in_one_step_is_an_error_and_not_another_program():
    tables = Tables([PLACE], WIDTH, Capacity(8, 2, 8, 2), torch.device("cpu"))
    with pytest.raises(RuntimeError, match="more than 2 programs or 8 rows"):
        tables.slots_for(dict(zip("abc", programs_of(3), strict=True)))


def test_a_row_that_two_programs_use_outlives_one_of_them():
    tables = Tables([PLACE], WIDTH, Capacity(8, 2, 8, 2), torch.device("cpu"))
    vector, other = drawn(WIDTH, seed=0), programs_of(2)[1]
    weak, strong = (pack(sm.Plan(sm.Add(vector, s, layers=1)).actions(shape())) for s in (1.0, 2.0))
    for key, packed in (("weak", weak), ("strong", strong)):
        states = resolve(packed, 3, 4, None, lambda text: None).programs[0]
        slot = tables.slots_for({key: Program(packed, states)})[key]
    tables.slots_for({"other": other})  # in place of the weak one
    assert torch.equal(tables.bank[tables.entries[0, slot, 1]], vector)

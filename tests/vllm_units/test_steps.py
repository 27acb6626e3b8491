"""What a worker does from step to step, held to brute force: whoever comes, goes, waits, or is put off."""

import tempfile

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vllm_units.test_vllm_units import WIDTH, at, drawn, shape

import steersman as sm
from steersman.conditions import Schedule
from steersman.engines.vllm.requests import Compiler, FrontEnd, carried
from steersman.engines.vllm.settings import CONDITIONS, Settings
from steersman.engines.vllm.tables import Tables
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

"""Bakes again and again and is killed at another moment each time; run by a test in a process of its own.

Prints how often the old folder was found, how often the new one, and how many kills there were.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tests.weights.baking import bake, direction, model_of

import steersman as sm

#: Moments are counted in these files: each call and return there, and each call of C from there, is one.
WATCHED = ("folders.py", "writing.py", "baking.py", "report.py")
STEPS = 10

where = Path(sys.argv[1])
model = model_of("gpt2", where / "base")
plans = [sm.Add(direction(model, seed), layers=1, positions="all") for seed in range(2)]
out = where / "out"


def run(plan: sm.Add) -> None:
    bake(model.edit(plan), out, prompts=["The weather"], max_new_tokens=1)


def state() -> str:
    if not out.is_dir():
        return "none"
    hasher = hashlib.sha256()
    for path in sorted(out.iterdir()):
        hasher.update(path.name.encode() + path.read_bytes())
    return hasher.hexdigest()


def count(kill_at: int | None) -> list[int]:
    seen = [0]

    def step(frame: Any, event: str, argument: object) -> None:
        if frame.f_code.co_filename.endswith(WATCHED):
            seen[0] += 1
            if seen[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(step)
    return seen


states: list[str] = []
for plan in plans:
    run(plan)
    states.append(state())
assert states[0] != states[1]
run(plans[0])
seen = count(None)
run(plans[1])
sys.setprofile(None)
total = seen[0]
run(plans[0])
assert state() == states[0]

# Evenly over the whole, and densely near the end, where the folder takes its place.
moments = sorted({*range(1, total, total // STEPS), *range(total - 18, total)})
moments.append(total // 2)  # last, so that something is left behind
found = [0, 0]
for moment in moments:
    child = os.fork()
    if child == 0:
        count(moment)
        run(plans[1])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"not killed at {moment} of {total}"
    now = state()
    assert now in states, f"killed at {moment} of {total}: {now}"
    found[states.index(now)] += 1
    if now == states[1]:
        run(plans[0])
    if sum(found) < len(moments):  # else the next would spend its first moments on removing this one's
        for path in where.glob(".out.*"):
            shutil.rmtree(path)
assert any(where.glob(".out.*"))


def cleared() -> None:
    for path in (out, *where.glob(".out.*")):  # what a killed bake left behind is removed by the next, which counts too
        shutil.rmtree(path, ignore_errors=True)


# Where nothing was before: nothing, or the new folder.
cleared()
seen = count(None)
run(plans[1])
sys.setprofile(None)
fresh = seen[0]
for moment in (fresh // 2, *range(fresh - 7, fresh, 2)):
    cleared()
    child = os.fork()
    if child == 0:
        count(moment)
        run(plans[1])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"not killed at {moment} of {fresh}"
    assert state() in ("none", states[1]), f"killed at {moment} of {fresh}"
run(plans[0])
print(*found, len(moments))

"""Extraction by other libraries, each in an environment of its own, against the bare forward pass.

python -m benchmarks.peers [--runs 11] [PEER ...]

For each peer an environment is made in ``.peers/`` (git ignores it) and the library installed there; a peer that does
not install, or fails at the work, is reported with its last words. All get the same model and the same pairs, from
files, and do the same work, the activations of the last token of each text at a middle layer and the direction between
the classes, in the way their documentation shows; pyvene and nnsight leave the loop to the user: batches of 32 in the
order given.
The limit that each is measured against is that of ``benchmarks.extract``, run in the same process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.extract import BUDGET, MIDDLE, PAIRS, build, plain_pairs
from benchmarks.timing import machine

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".peers"

#: What is installed for each. Older libraries want the transformers of their time.
PEERS: dict[str, list[str]] = {
    "repeng": ["repeng", "transformers<5"],
    "steering-vectors": ["steering-vectors", "transformers<5"],
    "pyvene": ["pyvene", "transformers<5"],
    "nnsight": ["nnsight>=0.8.1,<0.9"],
}


def environment(peer: str) -> Path:
    """The Python of a peer's environment, made if it is not there; RuntimeError with pip's last words."""
    python = FOLDER / peer / "bin" / "python"
    if not (FOLDER / peer / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / peer)], check=True)
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install", "torch==2.13.0", "numpy"]
        done = subprocess.run([*command, *PEERS[peer]], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        (FOLDER / peer / ".ready").touch()
    return python


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--runs", type=int, default=11)
    given = parser.parse_args()
    print(f"{machine()}; {PAIRS} plain pairs, layer {MIDDLE}; share of the limit: median [95% interval], CPU time")
    with tempfile.TemporaryDirectory() as folder:
        model, pairs = build(), plain_pairs(PAIRS)
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        work = {"positive": pairs.positive, "negative": pairs.negative, "layer": MIDDLE, "budget": BUDGET}
        Path(folder, "work.json").write_text(json.dumps(work | {"runs": given.runs}))
        for peer in given.peers:
            try:
                python = environment(peer)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                print(f"  {peer:17s} does not install: {error}")
                continue
            command = [str(python), "-P", str(HERE / "peer_work.py"), peer, folder]  # -P: nnsight is not our nnsight.py
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = (done.stdout if not done.returncode else done.stderr).strip().splitlines() or ["no word"]
            print(f"  {peer:17s} {'' if not done.returncode else 'fails: '}{lines[-1]}", flush=True)


if __name__ == "__main__":
    main()

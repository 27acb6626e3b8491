"""Hostile files: refused with one error of ours, in little memory, and nothing that they bring is run."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.files.making import FIXTURES, TRUTH, gguf_file, info, pickle_of, repacked

from steersman import SteeringVector
from steersman.errors import FileFormatError

PT = FIXTURES / "caa" / "vec_layer_1_Llama-2-7b-chat-hf.pt"
SOURCES = [FIXTURES / "repeng.gguf", FIXTURES / "aisteer360.svec", FIXTURES / "aisteer360_iti_heads.svec", PT]
NAME = "vec_layer_1_m.pt"


def outcome(path: Path) -> SteeringVector | None:
    """The vector, or None if the file was refused; anything else is a failure of the test."""
    try:
        return SteeringVector.load(path)
    except FileFormatError:
        return None


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_file_cut_anywhere_is_refused(source: Path, tmp_path: Path) -> None:
    whole, path = source.read_bytes(), tmp_path / source.name
    lengths = (
        range(len(whole))
        if len(whole) < 600
        else sorted({*range(0, len(whole), 7), *range(len(whole) - 64, len(whole))})
    )
    for length in lengths:
        path.write_bytes(whole[:length])
        assert outcome(path) is None, length


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_bytes_changed_at_random_are_refused_or_change_numbers_only(source: Path, tmp_path: Path) -> None:
    whole, path, dice = source.read_bytes(), tmp_path / source.name, random.Random(0)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(dice.choice([1, 1, 2, 8])):
            data[dice.randrange(len(data))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        path.write_bytes(data)
        found = outcome(path)
        assert found is None or all(bool(torch.isfinite(found[layer]).all()) for layer in found)


def test_bytes_changed_in_a_pickle_are_refused_or_change_numbers_only(tmp_path: Path) -> None:
    """The same inside the archive, its checksums made good, so that the changes arrive."""
    program, path, dice = pickle_of(PT), tmp_path / NAME, random.Random(1)
    survivors = 0
    for _ in range(600):
        data = bytearray(program)
        for _ in range(dice.choice([1, 1, 2, 4])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        found = outcome(repacked(PT, path, {"data.pkl": bytes(data)}))
        survivors += found is not None
        assert found is None or found[1].numel() <= 16
    assert survivors < 200


def test_headers_of_gguf_changed_everywhere_are_refused_or_read(tmp_path: Path) -> None:
    whole, path = gguf_file(), tmp_path / "v.gguf"
    for at in range(len(whole) - 192):  # everything but the numbers
        for value in (0, 0xFF):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            outcome(path)


# -- code --------------------------------------------------------------------------------------------------------


class Evil:
    """Pickled, it creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.marker), os.O_CREAT)


@pytest.mark.parametrize("ending", ["pt", "pth", "pkl", "bin", "gguf", "svec", "safetensors", "txt"])
def test_code_in_a_pickle_is_not_run_under_any_name(ending: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / f"vec_layer_1_m.{ending}"
    writers: list[Callable[[], object]] = [lambda: torch.save(Evil(marker), path)]
    writers += [lambda: torch.save({"layer_1": Evil(marker)}, path)]
    writers += [lambda: torch.save(Evil(marker), path, _use_new_zipfile_serialization=False)]
    writers += [lambda n=n: path.write_bytes(pickle.dumps(Evil(marker), protocol=n)) for n in range(6)]
    for write in writers:
        write()
        assert outcome(path) is None
        assert not marker.exists()


def test_the_trap_would_have_sprung(tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "ran"), tmp_path / NAME)
    torch.load(tmp_path / NAME, weights_only=False)
    assert (tmp_path / "ran").exists()


class SteeringVectorLikeTheirs:
    def __init__(self) -> None:
        self.layer_activations = {1: torch.ones(4)}


def test_a_pickled_object_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(SteeringVectorLikeTheirs(), tmp_path / "v.pt")
    with pytest.raises(FileFormatError, match=r"SteeringVectorLikeTheirs.*from_object"):
        SteeringVector.load(tmp_path / "v.pt")
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(TRUTH))
    with pytest.raises(FileFormatError, match="plain pickle"):
        SteeringVector.load(tmp_path / "v.pkl")


def test_a_file_of_torchscript_is_refused(tmp_path: Path) -> None:
    assert outcome(repacked(PT, tmp_path / NAME, {"constants.pkl": b"\x80\x02)."})) is None


# -- programs that ask for much -----------------------------------------------------------------------------------


def tensor_program(size: bytes, stride: bytes, elements: bytes, offset: bytes = b"K\x00") -> bytes:
    """A pickle that rebuilds a tensor from storage 0 with these arguments, each already a pickled value."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + elements + b"tQ"
    )
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + offset
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )


SIXTEEN = b"K\x10\x85"
HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")
PROGRAMS = {
    "a byte array of a terabyte": b"\x80\x02cbuiltins\nbytearray\n" + HUGE + b"\x85R.",
    "a tensor of a terabyte": b"\x80\x02ctorch\nTensor\n" + HUGE + b"\x85R.",
    "one number seen a trillion times": tensor_program(HUGE + b"\x85", b"K\x00\x85", b"K\x10"),
    "more numbers than there are": tensor_program(b"K\x11\x85", b"K\x01\x85", b"K\x11"),
    "a stride beyond them": tensor_program(b"K\x02\x85", b"K\x7f\x85", b"K\x10"),
    "an offset beyond them": tensor_program(SIXTEEN, b"K\x01\x85", b"K\x10", b"K\x01"),
    "a negative offset": tensor_program(SIXTEEN, b"K\x01\x85", b"K\x10", b"J\xff\xff\xff\xff"),
    "a negative size": tensor_program(b"J\xff\xff\xff\xff\x85", b"K\x01\x85", b"K\x10"),
    "sizes and no strides": tensor_program(SIXTEEN, b")", b"K\x10"),
    "a storage of another name": tensor_program(SIXTEEN, b"K\x01\x85", b"K\x10").replace(b"\x000X", b"\x001X"),
    "a storage of another kind": tensor_program(SIXTEEN, b"K\x01\x85", b"K\x10").replace(b"FloatS", b"DoubleS"),
    "a tower of tuples": b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x01s.",
    "a tower of pairs": b"\x80\x02}K\x01q\x00" + b"h\x00\x86q\x00" * 40 + b"K\x01s.",
    "tuples that double": b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"K\x01s.",
    "a tower of lists": b"\x80\x02" + b"](" * 100_000 + b".",
    "a far memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "a long integer": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 100 + b".",
    "a long string": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a name at large": b"\x80\x02cos\nsystem\n.",
    "a name on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an object built": b"\x80\x02ccollections\nOrderedDict\n)R}b.",
    "an object made anew": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"\x80\x02(ios\nsystem\n.",
    "a call of what is no function": b"\x80\x02K\x01)R.",
    "a call with what is no tuple": b"\x80\x02ccollections\nOrderedDict\nK\x01R.",
    "two values": b"\x80\x02K\x01K\x02.",
    "a name for a tensor": b"\x80\x02ctorch\nFloatStorage\n.",
    "no end": b"\x80\x02K\x01",
    "nothing": b"",
    "a storage and no tensor": b"\x80\x02K\x01Q.",
    "too long": b"\x80\x02" + b"K\x010" * 200_000 + b".",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_pickle_that_asks_for_more_than_there_is_is_refused(name: str, tmp_path: Path) -> None:
    assert outcome(repacked(PT, tmp_path / NAME, {"data.pkl": PROGRAMS[name]})) is None


def test_a_plain_program_is_read(tmp_path: Path) -> None:
    path = repacked(PT, tmp_path / NAME, {"data.pkl": tensor_program(SIXTEEN, b"K\x01\x85", b"K\x10")})
    assert outcome(path) == SteeringVector({1: torch.from_numpy(TRUTH[1])}, name="vec_layer_1_m",
                                           metadata={"format": "CAA vector", "model": "m"})  # fmt: skip


# -- archives ----------------------------------------------------------------------------------------------------


def compressed(path: Path) -> None:
    repacked(PT, path, {"data/1": bytes(200 * 1024**2)}, zipfile.ZIP_DEFLATED)


def overlapping(path: Path) -> None:
    """Many directory entries over the same megabyte."""
    repacked(PT, path, {"data/1": bytes(1024**2)})
    whole = path.read_bytes()
    end = whole.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", whole[end + 12 : end + 20])
    directory = whole[start : start + size]
    at = directory.rindex(b"PK\x01\x02")
    entry, count = directory[at:], 4000
    renamed = []
    for n in range(count):
        name = b"x/data/%05d" % n
        renamed.append(entry[:28] + struct.pack("<HHH", len(name), 0, 0) + entry[34:46] + name)
    directory = b"".join(renamed)
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    path.write_bytes(whole[:start] + directory + tail)


def lying(path: Path) -> None:
    """An entry whose directory declares a terabyte."""
    whole = repacked(PT, path, {}).read_bytes()
    at, end = whole.rindex(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    extra = struct.pack("<HHQQ", 1, 16, 10**12, 10**12)
    entry = whole[at : at + 20] + b"\xff" * 8 + whole[at + 28 : at + 30] + struct.pack("<H", len(extra))
    entry += whole[at + 32 : end] + extra
    size = struct.unpack("<I", whole[end + 12 : end + 16])[0] + len(extra)
    path.write_bytes(whole[:at] + entry + whole[end : end + 12] + struct.pack("<I", size) + whole[end + 16 :])


def twice(path: Path) -> None:
    """Two pickles under one name: whoever checks the one may load the other."""
    repacked(PT, path, {})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"\x80\x02K\x01.")


def twice_in_other_letters(path: Path) -> None:
    repacked(PT, path, {"DATA.PKL": b"\x80\x02K\x01."})


def two_folders(path: Path) -> None:
    repacked(PT, path, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02K\x01.")


def outside(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped/data.pkl", pickle_of(PT))


def without_pickle(path: Path) -> None:
    repacked(PT, path, {"data.pkl": None})


def without_numbers(path: Path) -> None:
    repacked(PT, path, {"data/0": None})


def of_many_files(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(5001):
            archive.writestr(f"a/{n}", b"")


def encrypted(path: Path) -> None:
    whole = bytearray(repacked(PT, path, {}).read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := whole.find(signature, at + 1)) >= 0:
            whole[at + offset] |= 1
    path.write_bytes(whole)


def empty(path: Path) -> None:
    path.write_bytes(b"PK\x05\x06" + bytes(18))


ARCHIVES: dict[Callable[[Path], None], str] = {
    compressed: "compressed archive", overlapping: "more bytes than it has", lying: "more bytes than it has",
    twice: "an entry", twice_in_other_letters: "an entry", two_folders: "an entry", outside: "no data.pkl",
    without_pickle: "no data.pkl", without_numbers: "another size", of_many_files: "5001 entries",
    encrypted: "encrypted", empty: "as a zip archive",
}  # fmt: skip


@pytest.mark.parametrize("make", ARCHIVES, ids=lambda make: make.__name__)
def test_an_archive_that_is_not_what_it_says_is_refused_in_little_memory(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / NAME)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=ARCHIVES[make]):
            SteeringVector.load(tmp_path / NAME)
        assert tracemalloc.get_traced_memory()[1] < 40 * 1024**2
    finally:
        tracemalloc.stop()
    assert not (tmp_path.parent / "escaped").exists()


def test_a_checksum_that_does_not_match_is_refused(tmp_path: Path) -> None:
    whole = bytearray(repacked(PT, tmp_path / NAME, {}).read_bytes())
    at = whole.index(TRUTH[1].tobytes())
    whole[at] ^= 1
    (tmp_path / NAME).write_bytes(whole)
    assert outcome(tmp_path / NAME) is None


# -- other things that are no file --------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.svec")
    for path in (tmp_path / "v.svec", Path("/dev/zero")):
        with pytest.raises(FileFormatError, match="regular file"):
            SteeringVector.load(path)  # at once: nobody writes to the one, the other never ends


def test_names_in_a_folder_that_are_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert outcome(tmp_path) is None
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).symlink_to("/dev/zero")
    assert outcome(tmp_path) is None
    (tmp_path / NAME).unlink()
    (tmp_path / "probe.json").symlink_to("/dev/zero")
    assert outcome(tmp_path) is None


def test_a_symlink_to_itself_is_missing(tmp_path: Path) -> None:
    (tmp_path / "v.svec").symlink_to("v.svec")
    with pytest.raises((FileNotFoundError, FileFormatError)):
        SteeringVector.load(tmp_path / "v.svec")


# -- memory, measured from outside --------------------------------------------------------------------------------

_CHILD = """
import resource, sys
from pathlib import Path
import gguf, torch
from steersman import SteeringVector
from steersman.errors import FileFormatError

SteeringVector.load(sys.argv[1])  # whatever is allocated once
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 1024**2,) * 2)
for name in sys.argv[2:]:
    try:
        SteeringVector.load(name)
    except FileFormatError as error:
        assert "MemoryError" not in str(error), error
    else:
        raise SystemExit(f"{name} was read")
print("all refused")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_bombs_of_all_kinds_are_refused_within_a_quarter_of_a_gigabyte(tmp_path: Path) -> None:
    bombs: list[Path] = []
    for number, (name, program) in enumerate(PROGRAMS.items()):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        bombs.append(repacked(PT, folder / NAME, {"data.pkl": program}))
        assert name
    for make in (compressed, overlapping, lying):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / NAME)
        bombs.append(folder / NAME)
    headers = {
        "tensors": gguf_file(counts=(2**63, 2)),
        "string": gguf_file()[:24] + struct.pack("<Q", 2**62) + bytes(64),
        "tensor": gguf_file(infos=[info("direction.1", [2**40])], data=bytes(64)),
        "shared": gguf_file(infos=[info(f"direction.{i}", [2**18]) for i in range(1, 2000)], data=bytes(2**20)),
    }
    for name, content in headers.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        bombs.append(tmp_path / f"{name}.gguf")
    with (tmp_path / "sparse.svec").open("wb") as opened:
        opened.truncate(10 * 1024**3)
    with (tmp_path / "sparse.gguf").open("wb") as opened:
        opened.write(b"GGUF")
        opened.truncate(10 * 1024**3)
    bombs += [tmp_path / "sparse.svec", tmp_path / "sparse.gguf"]
    command = [sys.executable, "-c", _CHILD, str(FIXTURES / "repeng.gguf"), *map(str, bombs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "all refused", done.stdout + done.stderr


def test_a_large_file_is_read_in_a_few_times_its_size(tmp_path: Path) -> None:
    memory = io.BytesIO()
    torch.save(torch.ones(1_000_000), memory)
    (tmp_path / NAME).write_bytes(memory.getvalue())
    tracemalloc.start()
    try:
        assert outcome(tmp_path / NAME) is not None
        assert tracemalloc.get_traced_memory()[1] < 5 * len(memory.getvalue())
    finally:
        tracemalloc.stop()

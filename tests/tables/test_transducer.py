"""Transducers in files and tables: both forms, OpenFst as another reader and writer, and damaged files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.transducer import TRANSDUCER, Transducer, read_transducer_file, write_const

needs_kaldifst = pytest.mark.skipif(importlib.util.find_spec("kaldifst") is None, reason="kaldifst is not installed")
SMALL = Transducer.of(
    1,
    [np.inf, 0.0, 1.5],
    [(1, 0, 7, 3, 0.25), (0, 0, 8, 0, 0.0), (0, 2, 9, 0, 1.0), (1, 2, 0, 4, -0.5)],
)


def same(one: Transducer, other: Transducer) -> bool:
    return one.start == other.start and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("finals", "sources", "targets", "ilabels", "olabels", "weights")
    )


@pytest.mark.parametrize("option", ["", "t"])
def test_a_table_of_transducers_is_read_as_it_was_written(option: str, tmp_path: Path) -> None:
    empty = Transducer.of(-1, [], [])
    one_state = Transducer.of(0, [0.0], [])
    kind = f"ark,{option}" if option else "ark"
    with TableWriter(f"{kind}:{tmp_path}/fsts", TRANSDUCER) as writer:
        for key, transducer in (("a", SMALL), ("b", one_state), ("c", empty), ("d", SMALL)):
            writer.write(key, transducer)
    with SequentialReader(f"ark:{tmp_path}/fsts", TRANSDUCER) as reader:
        found = dict(reader)
    if option:  # in text states are named in the order of their lines only by their numbers, which stay
        assert (tmp_path / "fsts").read_text().splitlines()[:3] == ["a ", "1\t0\t7\t3\t0.25", "1\t2\t0\t4\t-0.5"]
    assert list(found) == ["a", "b", "c", "d"]
    assert same(found["a"], SMALL)
    assert same(found["b"], one_state)
    assert same(found["c"], empty)
    assert same(found["d"], SMALL)


_WITH_OPENFST = """
import sys
import kaldifst
reader = kaldifst.SequentialVectorFstReader("ark:ours")
fst = reader.value
assert reader.key == "u1"
print(fst.start, fst.num_states)
for state in range(fst.num_states):
    for arc in kaldifst.ArcIterator(fst, state):
        print(state, arc.nextstate, arc.ilabel, arc.olabel, arc.weight.value)
    print(state, fst.final(state).value)
fst.write("theirs.fst")
kaldifst.StdConstFst(fst).write("theirs-const.fst")
fst.input_symbols = fst.output_symbols = kaldifst.SymbolTable.from_str("<eps> 0\\na 7\\nb 9\\n")
fst.write("theirs-symbols.fst")
fst.input_symbols = fst.output_symbols = None
writer = kaldifst.VectorFstWriter("ark:theirs")
writer.write("u1", fst)
writer.close()
writer = kaldifst.VectorFstWriter("ark,t:theirs.txt")
writer.write("u1", fst)
writer.close()
"""


@needs_kaldifst
def test_openfst_reads_ours_and_we_read_openfsts(tmp_path: Path) -> None:
    with TableWriter(f"ark:{tmp_path}/ours", TRANSDUCER) as writer:
        writer.write("u1", SMALL)
    done = subprocess.run([sys.executable, "-c", _WITH_OPENFST], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = ["1 3", "0 0 8 0 0.0", "0 2 9 0 1.0", "0 inf", "1 0 7 3 0.25", "1 2 0 4 -0.5", "1 0.0", "2 1.5"]
    assert done.stdout.splitlines() == expected
    assert same(read_transducer_file(str(tmp_path / "theirs.fst")), SMALL)
    assert same(read_transducer_file(str(tmp_path / "theirs-const.fst")), SMALL)
    assert b"<eps>" in (tmp_path / "theirs-symbols.fst").read_bytes()
    assert same(read_transducer_file(str(tmp_path / "theirs-symbols.fst")), SMALL)
    for name in ("theirs", "theirs.txt"):
        with SequentialReader(f"ark:{tmp_path}/{name}", TRANSDUCER) as reader:
            assert same(dict(reader)["u1"], SMALL)


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "small.fst"
    with open_output(str(path)) as sink:
        TRANSDUCER.write(sink, SMALL, True)
    return path


def test_a_truncated_file_names_itself_and_the_byte(binary: Path) -> None:
    whole = binary.read_bytes()
    for size in (2, 20, len(whole) // 2, len(whole) - 1):
        binary.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"small\.fst, byte \d+"):
            read_transducer_file(str(binary))


# In the header: magic (4), "vector" (4 + 6), "standard" (4 + 8), version, flags (4 each); properties, start, states
# and arcs (8 each).
@pytest.mark.parametrize(
    ("place", "size", "value", "says"),
    [
        (0, 4, 1, "OpenFst's binary form, found bytes"),
        (8, 6, int.from_bytes(b"cached", "little"), "type 'vector' or 'const'"),
        (26, 4, 1, "version 2"),
        (30, 4, 1, "table of symbols"),
        (42, 8, 3, "one of them to start from, found 3 and 3"),
        (50, 8, 1 << 40, "too early"),
        (30, 4, 4, "without alignment"),
        (50, 8, 1, "found 1 and 1"),
        (78, 4, 77, "goes to a state"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(binary: Path, place: int, size: int, value: int, says: str) -> None:
    data = bytearray(binary.read_bytes())
    if says == "goes to a state":  # the target of state 0's first arc: after the header and the state's own 12 bytes
        place = 66 + 12 + 12
    data[place : place + size] = value.to_bytes(size, "little")
    binary.write_bytes(bytes(data))
    with pytest.raises(UserError, match="(?s)" + says):
        read_transducer_file(str(binary))


@pytest.fixture
def const(tmp_path: Path) -> Path:
    path = tmp_path / "const.fst"
    with open_output(str(path)) as sink:
        write_const(sink, SMALL)
    return path


@needs_kaldifst
def test_openfst_reads_our_const_form(const: Path) -> None:
    script = "import kaldifst, sys; kaldifst.StdVectorFst(kaldifst.StdConstFst.read('const.fst')).write('vector.fst')"
    done = subprocess.run([sys.executable, "-c", script], cwd=const.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same(read_transducer_file(str(const.parent / "vector.fst")), SMALL)


@pytest.mark.parametrize(("version", "flags"), [(1, 0), (2, 4)])
def test_the_const_form_may_be_aligned(const: Path, version: int, flags: int) -> None:
    whole = const.read_bytes()
    assert same(read_transducer_file(str(const)), SMALL)
    header, states, arcs = whole[:65], whole[65:125], whole[125:]  # 3 states of 20 bytes
    header = header[:25] + version.to_bytes(4, "little") + flags.to_bytes(4, "little") + header[33:]
    const.write_bytes(header + bytes(15) + states + bytes(4) + arcs)
    assert same(read_transducer_file(str(const)), SMALL)


# After the 65 bytes of the header: states of final weight, first arc, arcs and epsilons of both sides, 4 bytes each.
@pytest.mark.parametrize(
    ("place", "size", "value", "says"),
    [
        (25, 4, 3, "version 2 of OpenFst's const form, found version 3"),
        (49, 8, 1 << 40, "too early"),
        (57, 8, (1 << 64) - 1, "number of arcs, found -1"),
        (57, 8, 3, "share 3 arcs"),
        (69, 4, 1, "share 4 arcs in their order"),
        (73, 4, 1 << 31, "share 4 arcs in their order"),
        (65, 4, 0x7FC00000, "not a number"),
        (125 + 12, 4, 3, "goes to a state"),
    ],
)
def test_a_damaged_const_form_is_refused(const: Path, place: int, size: int, value: int, says: str) -> None:
    data = bytearray(const.read_bytes())
    data[place : place + size] = value.to_bytes(size, "little")
    const.write_bytes(data)
    with pytest.raises(UserError, match="(?s)" + says):
        read_transducer_file(str(const))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("u1 \n0\t1\t2\n\n", 'expected an arc or a final state of a transducer, found "0 1 2"'),
        ("u1 \n0\tx\t2\t3\n\n", "expected an arc"),
        ("u1 \n0\t-1\t2\t3\n\n", "expected an arc"),
        ("u1 \n0\t1\t-2\t3\n1\n\n", "label of the transducer is below 0"),
        ("u1 \n0\t1\t2\t3\tnan\n1\n\n", "not a number"),
        ("u1 \n0\t9000000\t2\t3\n\n", "few have a line"),
        ("u1 \n0\t1\t99999999999\t3\n1\n\n", "beyond 32 bits"),
    ],
)
def test_a_bad_transducer_in_text_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "fsts").write_text(text)
    with pytest.raises(UserError, match=says), SequentialReader(f"ark:{tmp_path}/fsts", TRANSDUCER) as reader:
        list(reader)

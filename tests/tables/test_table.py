"""Tables: every form of rspecifier and wspecifier, and what goes wrong with them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import compress
from nnet3py.tables.holders import (
    BOOL,
    COMPRESSED_MATRIX,
    DOUBLE,
    FLOAT,
    GENERAL_MATRIX,
    INT,
    INT_VECTOR,
    MATRIX,
    POSTERIOR,
    TOKEN,
    TOKEN_VECTOR,
    VECTOR,
    WAVE,
)
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import (
    RandomAccessReader,
    RandomAccessReaderMapped,
    SequentialReader,
    TableWriter,
    parse_rspecifier,
    parse_wspecifier,
    read_script,
)
from nnet3py.tables.wave import Wave


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(wspecifier: str, holder: Any, pairs: Sequence[tuple[str, Any]]) -> None:
    with TableWriter(wspecifier, holder) as writer:
        for key, value in pairs:
            writer.write(key, value)


def read(rspecifier: str, holder: Any) -> list[tuple[str, Any]]:
    with SequentialReader(rspecifier, holder) as reader:
        return list(reader)


def integers(count: int = 5) -> list[tuple[str, int]]:
    return [(f"k{i}", i) for i in range(count)]


def matrices(count: int = 3) -> list[tuple[str, np.ndarray[Any, Any]]]:
    random = np.random.default_rng(0)
    return [(f"u{i}", random.standard_normal((10 + i, 4)).astype(np.float32)) for i in range(count)]


# ---------------------------------------------------------------------------------------------------------- all types

VALUES: list[tuple[Any, list[Any]]] = [
    (INT, [0, -5, 2**31 - 1]),
    (FLOAT, [0.5, -1.25]),
    (DOUBLE, [0.5, -1.25]),
    (BOOL, [True, False]),
    (TOKEN, ["word", "größe"]),
    (TOKEN_VECTOR, [["two", "words"], []]),
    (INT_VECTOR, [[1, 2, 3], [], [-(2**31)]]),
    (VECTOR, [np.array([0.5, 2], np.float32), np.empty(0, np.float32)]),
    (MATRIX, [np.array([[0.5, 2], [1, 1]], np.float32), np.empty((0, 0), np.float32)]),
    (
        POSTERIOR,
        [
            Posterior.of_frames([[(3, 0.5), (4, 0.5)], [], [(1, 1.0)]]),
            Posterior.of_frames([]),
            Posterior.of_alignment([7] * 4),
        ],
    ),
]


@pytest.mark.parametrize("options", ["", ",t"])
@pytest.mark.parametrize(("holder", "values"), VALUES, ids=[holder.name for holder, _ in VALUES])
def test_every_type_reads_back_from_archive_script_and_pipe(options: str, holder: Any, values: list[Any]) -> None:
    pairs = [(f"key{i}", value) for i, value in enumerate(values)]
    write(f"ark,scp{options}:a.ark,a.scp", holder, pairs)
    for rspecifier in (
        "ark:a.ark",
        "scp:a.scp",
        "ark:cat a.ark |",
        "scp:cat a.scp |",
        "ark,bg:a.ark",
        "scp,bg,p:a.scp",
    ):
        found = read(rspecifier, holder)
        assert [key for key, _ in found] == [key for key, _ in pairs]
        for (_, value), (_, expected) in zip(found, pairs, strict=True):
            np.testing.assert_equal(
                np.asarray(value).tolist() if isinstance(value, np.ndarray) else value, _plain(expected)
            )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_matrices_keep_their_form_in_a_general_table() -> None:
    full, packed = matrices(1)[0][1], compress(matrices(1)[0][1])
    labels = SparseMatrix.from_rows([[(1, 1.0)], [(0, 1.0)]], 3)
    write("ark:a", GENERAL_MATRIX, [("full", full), ("packed", packed), ("labels", labels)])
    found = dict(read("ark:a", GENERAL_MATRIX))
    np.testing.assert_array_equal(found["full"], full)
    np.testing.assert_array_equal(found["packed"].data, packed.data)
    np.testing.assert_array_equal(found["labels"].to_array(), labels.to_array())
    write("ark:b", COMPRESSED_MATRIX, [("full", full)])
    np.testing.assert_array_equal(dict(read("ark:b", COMPRESSED_MATRIX))["full"].data, packed.data)


def test_keys_may_be_odd() -> None:
    keys = [
        "a;ls",
        "$(touch${IFS}x)",
        "ключ",
        "a/b",
        "x" * 5000,
        "-",
        "[0:1]",
        b"\xff\xfe".decode("utf8", "surrogateescape"),
    ]
    write("ark,scp:a.ark,a.scp", INT, [(key, i) for i, key in enumerate(keys)])
    assert read("scp:a.scp", INT) == read("ark:a.ark", INT) == [(key, i) for i, key in enumerate(keys)]
    assert sorted(os.listdir()) == ["a.ark", "a.scp"]


@pytest.mark.parametrize("key", ["", "two words", "tab\there", "line\n", " lead"])
def test_a_key_that_could_not_be_read_back_is_not_written(key: str) -> None:
    with pytest.raises(UserError, match="without white space"):
        write("ark:a", INT, [(key, 1)])
    assert os.listdir() == []


def test_empty_tables_are_fine_to_read() -> None:
    for name in ("ark:a", "hdf5:h.h5"):
        write(name, MATRIX, [])
        assert read(name, MATRIX) == []
        with RandomAccessReader(name, MATRIX) as table:
            assert "key" not in table
    write("ark,scp:b,b.scp", MATRIX, [])
    assert read("scp:b.scp", MATRIX) == read("ark:/dev/null", MATRIX) == []


def test_a_tab_or_a_line_end_may_follow_a_key() -> None:
    Path("a").write_bytes(b"k1\t1 2 3\nk2\nk3 4\n")
    assert [(key, value.tolist()) for key, value in read("ark:a", INT_VECTOR)] == [
        ("k1", [1, 2, 3]),
        ("k2", []),
        ("k3", [4]),
    ]


def test_standard_streams_carry_tables(tmp_path: Path) -> None:
    write("ark:a", INT, integers())
    code = (
        "from nnet3py.tables.table import *\nfrom nnet3py.tables.holders import INT\n"
        "with SequentialReader('ark:-', INT) as r, TableWriter('ark,t:-', INT) as w:\n"
        "    for key, value in r: w.write(key, 2 * value)\n"
    )
    with open("a", "rb") as source:
        done = subprocess.run([sys.executable, "-c", code], stdin=source, capture_output=True, check=True)
    assert done.stdout == b"k0 0 \nk1 2 \nk2 4 \nk3 6 \nk4 8 \n"


def test_a_pipe_takes_an_archive() -> None:
    write("ark,t:| sort -r > sorted", INT, integers())
    assert [key for key, _ in read("ark:sorted", INT)] == ["k4", "k3", "k2", "k1", "k0"]


def test_option_f_passes_each_value_on_at_once() -> None:
    os.mkfifo("fifo")
    lines: list[bytes] = []
    first = threading.Event()

    def receive() -> None:
        with open("fifo", "rb") as stream:
            for line in stream:
                lines.append(line)
                first.set()

    thread = threading.Thread(target=receive)
    thread.start()
    with TableWriter("ark,t,f:fifo", INT) as writer:
        writer.write("k0", 0)
        assert first.wait(10)
        writer.write("k1", 1)
    thread.join()
    assert lines == [b"k0 0 \n", b"k1 1 \n"]


# ----------------------------------------------------------------------------------------------------------- scripts


def test_a_script_says_where_each_value_is() -> None:
    pairs = matrices()
    write("ark,scp:a.ark,a.scp", MATRIX, pairs)
    lines = Path("a.scp").read_text().splitlines()
    Path("single").write_bytes(b"\0BFM \x04\x01\0\0\0\x04\x01\0\0\0\0\0\x80\x3f")
    Path("mixed.scp").write_text(f"one single\n{lines[2]}\ntwo cat single |\n{lines[0]}\n")
    found = read("scp:mixed.scp", MATRIX)
    assert [key for key, _ in found] == ["one", "u2", "two", "u0"]
    assert found[0][1].tolist() == found[2][1].tolist() == [[1.0]]
    np.testing.assert_array_equal(found[1][1], pairs[2][1])
    np.testing.assert_array_equal(found[3][1], pairs[0][1])


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("0:3", slice(0, 4), slice(None)),
        (":,1:2", slice(None), slice(1, 3)),
        ("2:5,0:0", slice(2, 6), slice(0, 1)),
        (":,:", slice(None), slice(None)),
        ("5:11", slice(5, 10), slice(None)),  # 10 rows: within the tolerance, with a warning
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_ranges_select_rows_and_columns(text: str, rows: slice, columns: slice, packed: bool) -> None:
    matrix = matrices(1)[0][1]
    value = compress(matrix) if packed else matrix
    write("ark,scp:a.ark,a.scp", GENERAL_MATRIX, [("u0", value)])
    place = Path("a.scp").read_text().split()[1]
    Path("r.scp").write_text(f"part {place}[{text}]\npipe cat a.ark | tail -c +4 |[{text}]\n")
    expected = value.to_array() if packed else matrix
    for holder in (MATRIX, GENERAL_MATRIX):
        for _, part in read("scp:r.scp", holder):
            np.testing.assert_array_equal(part, expected[rows, columns])
    with RandomAccessReader("scp:r.scp", MATRIX) as table:
        np.testing.assert_array_equal(table["part"], expected[rows, columns])


def test_a_range_of_a_vector() -> None:
    write("ark,scp:a.ark,a.scp", VECTOR, [("v", np.arange(10, dtype=np.float32))])
    Path("r.scp").write_text("part a.ark:2[3:5]\n")
    assert read("scp:r.scp", VECTOR)[0][1].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    "text", ["5", "a:b", "4:2", "0:99", "12:13", "0:1,0:4", "0:1,", ",", "0:1,0:1,0:1", "-1:2", "0:1:2"]
)
def test_a_bad_range_is_an_error_that_names_the_key(text: str) -> None:
    write("ark:a.ark", MATRIX, matrices(1))
    Path("r.scp").write_text(f"part a.ark:3[{text}]\n")
    with pytest.raises(UserError, match=r"key 'part'.*range"):
        read("scp:r.scp", MATRIX)


def test_a_range_of_something_without_parts_is_an_error() -> None:
    write("ark:a.ark", INT_VECTOR, [("k", [1, 2, 3])])
    Path("r.scp").write_text("part a.ark:2[0:1]\n")
    with pytest.raises(UserError, match="no meaning for a table of vectors of integers"):
        read("scp:r.scp", INT_VECTOR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"good a:3\nlonely\n", "s.scp, line 2: expected a key and what it stands for.*only 'lonely'"),
        (b"good a:3\n\n", "s.scp, line 2: .*an empty line"),
        (b"good a:3\nkey   \n", "line 2"),
        (b"key \0B\n", "binary data"),
    ],
)
def test_a_bad_script_line_is_named(text: bytes, message: str) -> None:
    Path("s.scp").write_bytes(text)
    with pytest.raises(UserError, match=message):
        list(read_script("s.scp"))
    with pytest.raises(UserError, match=message):
        RandomAccessReader("scp:s.scp", INT)


def test_a_missing_file_in_a_script_names_key_and_file() -> None:
    Path("s.scp").write_text("key no/such/file:12\n")
    with pytest.raises(UserError, match="key 'key': Cannot open no/such/file:12 to read: No such file"):
        read("scp:s.scp", INT)


def test_a_key_twice_in_a_script_is_an_error_for_random_access() -> None:
    write("ark,scp:a.ark,a.scp", INT, [("k", 1), ("k", 2)])
    assert read("scp:a.scp", INT) == [("k", 1), ("k", 2)]
    with pytest.raises(UserError, match="line 2: the key 'k' is there twice"):
        RandomAccessReader("scp:a.scp", INT)
    with RandomAccessReader("ark:a.ark", INT) as table, pytest.raises(UserError, match="'k' is twice"):
        table["other"]


def test_a_script_to_write_by_says_where_each_value_goes() -> None:
    Path("out.scp").write_text("k0 first\nk1 cat > second |\n".replace("cat > second |", "| cat > second"))
    write("scp,t:out.scp", INT, integers(2))
    assert Path("first").read_text() == "0 \n"
    assert Path("second").read_text() == "1 \n"
    with pytest.raises(UserError, match="does not say where to write the key 'k2'"):
        write("scp:out.scp", INT, integers(3))
    write("scp,p:out.scp", INT, integers(3))
    Path("in.scp").write_text("k0 first\nk1 second\n")
    assert read("scp:in.scp", INT) == integers(2)


# ------------------------------------------------------------------------------------------------------------ damage


def test_a_truncated_archive_names_the_key_it_stopped_at_and_the_byte() -> None:
    write("ark:a", MATRIX, matrices())
    data = Path("a").read_bytes()
    Path("cut").write_bytes(data[:-10])
    with pytest.raises(UserError, match=r"key 'u2': cut, byte \d+: the data end too early"):
        read("ark:cut", MATRIX)
    with pytest.raises(UserError, match=r"key 'u2': cat cut \|, byte"):
        read("ark:cat cut |", MATRIX)
    with pytest.raises(UserError, match="key 'u2'"):
        read("ark,bg:cut", MATRIX)
    Path("key_only").write_bytes(data[: data.rindex(b"u2 ") + 2])
    with pytest.raises(UserError, match=r"expected a blank and a value after the key 'u2', found the end of the data"):
        read("ark:key_only", MATRIX)


def test_option_p_passes_over_damage() -> None:
    write("ark,scp:a.ark,a.scp", MATRIX, matrices())
    Path("a.scp").write_text(Path("a.scp").read_text() + "gone nowhere\nlast a.ark:3\n")
    assert [key for key, _ in read("scp,p:a.scp", MATRIX)] == ["u0", "u1", "u2", "last"]
    with RandomAccessReader("scp,p:a.scp", MATRIX) as table:
        assert "gone" not in table
        assert "last" in table
    Path("cut").write_bytes(Path("a.ark").read_bytes()[:-10])
    assert [key for key, _ in read("ark,p:cut", MATRIX)] == ["u0", "u1"]


def test_an_archive_of_another_type_is_an_error() -> None:
    write("ark:a", INT_VECTOR, [("k", [1, 2])])
    for holder in (MATRIX, VECTOR, GENERAL_MATRIX, WAVE, COMPRESSED_MATRIX):
        with pytest.raises(UserError, match="key 'k': a, byte"):
            read("ark:a", holder)
    write("ark:m", MATRIX, matrices(1))
    for holder in (INT_VECTOR, INT, POSTERIOR, FLOAT):
        with pytest.raises(UserError, match="key 'u0': m, byte"):
            read("ark:m", holder)


def test_random_bytes_are_an_error_or_a_table_but_never_a_defect() -> None:
    random = np.random.default_rng(0)
    holders: list[Any] = [MATRIX, VECTOR, INT_VECTOR, POSTERIOR, GENERAL_MATRIX, COMPRESSED_MATRIX, WAVE, INT, FLOAT]
    starts = [b"", b"\0B", b"\0BFM \x04", b"\0BCM2 ", b"\0BSM \x04", b"\0B\x04", b" [ ", b"RIFF", b"\0BCM "]
    errors = 0
    for trial in range(300):
        Path("junk").write_bytes(b"key " + starts[trial % len(starts)] + random.bytes(int(random.integers(0, 60))))
        try:
            read("ark:junk", holders[trial % 8 if trial % 2 else trial % len(holders)])
        except UserError:
            errors += 1
    assert errors > 250


@pytest.mark.parametrize(
    ("holder", "data"),
    [
        (INT_VECTOR, b"\0B\x04\xff\xff\xff\x7f\x04\x01\0\0\0"),
        (INT_VECTOR, b"\0B\x04\xff\xff\xff\xff"),
        (INT_VECTOR, b"\0B\x04\x01\0\0\0\x08\x01\0\0\0"),
        (INT_VECTOR, b"1 2.5\n"),
        (INT_VECTOR, b"99999999999\n"),
        (POSTERIOR, b"\0B\x04\xff\xff\xff\x7f"),
        (POSTERIOR, b"\0B\x04\x80\x96\x98\0\x04\0\0\0\0"),
        (POSTERIOR, b"\0B\x04\x01\0\0\0\x04\xff\xff\xff\x7f"),
        (POSTERIOR, b"\0B\x04\x01\0\0\0\x04\xff\xff\xff\xff"),
        (POSTERIOR, b"1 2 3\n"),
        (POSTERIOR, b"[ 1 ]\n"),
        (POSTERIOR, b"[ 1 0.5\n"),
        (POSTERIOR, b"[ 1 x ]\n"),
        (POSTERIOR, b"[ 1_0 0.5 ]\n"),
        (POSTERIOR, b"[ 2147483648 0.5 ]\n"),
        (POSTERIOR, b"[ 99999999999999999999999 0.5 ]\n"),
        (INT, b"\n1\n"),
        (INT, b"1 2\n"),
        (FLOAT, b"abc\n"),
        (TOKEN, b"two words\n"),
        (TOKEN, b"\n"),
    ],
)
def test_corrupt_values_and_hostile_sizes_are_errors(holder: Any, data: bytes) -> None:
    Path("bad").write_bytes(b"key " + data)
    with pytest.raises(UserError, match=r"key 'key': bad, byte \d+"):
        read("ark:bad", holder)


def test_a_failed_pipe_is_an_error_even_after_whole_values() -> None:
    write("ark:a", INT, integers())
    with pytest.raises(UserError, match="exited with status 3"):
        read("ark:cat a; exit 3 |", INT)
    with pytest.raises(UserError, match="exited with status 1"):
        read("ark:false |", INT)


# ---------------------------------------------------------------------------------------------------------- atomicity


def test_a_failed_writer_leaves_the_earlier_archive_and_script() -> None:
    write("ark,scp:a.ark,a.scp", INT, integers())
    before = Path("a.ark").read_bytes(), Path("a.scp").read_bytes()
    with contextlib.suppress(ZeroDivisionError), TableWriter("ark,scp:a.ark,a.scp", INT) as writer:
        writer.write("other", 1)
        raise ZeroDivisionError
    assert (Path("a.ark").read_bytes(), Path("a.scp").read_bytes()) == before
    assert sorted(os.listdir()) == ["a.ark", "a.scp"]


def test_a_table_may_be_rewritten_in_place() -> None:
    write("ark:a", INT, integers())
    with SequentialReader("ark:a", INT) as reader, TableWriter("ark:a", INT) as writer:
        for key, value in reader:
            writer.write(key, value + 1)
    assert read("ark:a", INT) == [(key, value + 1) for key, value in integers()]


def test_a_script_that_cannot_be_opened_leaves_no_archive() -> None:
    with pytest.raises(UserError, match="no/such/folder"):
        TableWriter("ark,scp:a.ark,no/such/folder/a.scp", INT)
    assert os.listdir() == []


def test_a_script_cannot_point_into_a_pipe() -> None:
    for archive in ("-", "| cat > x", "/dev/null"):
        with pytest.raises(UserError, match="give ark,scp: a file"):
            TableWriter(f"ark,scp:{archive},a.scp", INT)
    assert not Path("a.scp").exists()


# ------------------------------------------------------------------------------------------------------ random access


@pytest.mark.parametrize("rspecifier", ["ark:a", "scp:a.scp", "ark,s:a", "hdf5:a.h5", "ark:cat a |"])
def test_values_are_found_by_key_in_any_order(rspecifier: str) -> None:
    write("ark,scp:a,a.scp", INT, integers())
    write("hdf5:a.h5", INT, integers())
    with RandomAccessReader(rspecifier, INT) as table:
        assert table["k3"] == 3
        assert "k1" in table
        assert table["k1"] == 1
        assert table["k3"] == 3
        assert "absent" not in table
        assert table["k4"] == 4
        with pytest.raises(UserError, match="has no key 'absent'"):
            table["absent"]


@pytest.mark.parametrize("options", ["s,cs", "s,cs,o", "o", "s,o", "o,cs"])
def test_keys_in_order_are_found_with_every_option(options: str) -> None:
    write("ark:a", INT, [(key, value) for key, value in integers() if key != "k2"])
    with RandomAccessReader(f"ark,{options}:a", INT) as table:
        for key, value in integers():
            assert (key in table) == (key != "k2")
            if key in table:
                assert table[key] == table[key] == value


def test_option_s_stops_reading_when_the_key_is_passed() -> None:
    write("ark:a", INT, integers())
    Path("cut").write_bytes(Path("a").read_bytes()[:-2])  # k4 is broken
    with RandomAccessReader("ark,s:cut", INT) as table:
        assert "k1x" not in table
        assert table["k2"] == 2
        assert "a" not in table


def test_options_that_are_not_true_are_errors() -> None:
    write("ark:a", INT, reversed(integers()))  # type: ignore[arg-type]
    with RandomAccessReader("ark,s:a", INT) as table, pytest.raises(UserError, match="opened as sorted"):
        table["k5"]
    write("ark:b", INT, integers())
    with RandomAccessReader("ark,s,cs:b", INT) as table:
        assert table["k3"] == 3
        with pytest.raises(UserError, match="'k1' was asked for after 'k3'"):
            table["k1"]


def test_option_o_forgets_what_was_asked_for() -> None:
    write("ark:a", INT, integers())
    with RandomAccessReader("ark,o:a", INT) as table:
        assert table["k3"] == 3
        assert table["k2"] == 2
        assert "k3" not in table


def test_sorting_is_by_bytes_as_in_the_c_locale() -> None:
    keys = sorted(["Z", "a", "é", "k-1", "k1", "k_1"], key=lambda key: key.encode())
    write("ark:a", TOKEN, [(key, key) for key in keys])
    with RandomAccessReader("ark,s,cs:a", TOKEN) as table:
        assert [table[key] for key in keys] == keys


def test_a_map_from_utterances_to_speakers() -> None:
    write("ark:a", INT, [("s1", 1), ("s2", 2)])
    Path("utt2spk").write_text("u1 s1\nu2 s2\nu3 s3\n")
    with RandomAccessReaderMapped("ark:a", "ark:utt2spk", INT) as table:
        assert (table["u2"], table["u1"]) == (2, 1)
        assert "u3" not in table
        assert "u4" not in table
        with pytest.raises(UserError, match="The map ark:utt2spk has no key 'u4'"):
            table["u4"]
    with RandomAccessReaderMapped("ark:a", "", INT) as table:
        assert table["s1"] == 1


def test_a_background_reader_that_is_given_up_stops() -> None:
    write("ark:a", INT, integers())
    before = threading.active_count()
    with SequentialReader("ark,bg:a", INT) as reader:
        for key, _ in reader:
            assert key == "k0"
            break
    assert threading.active_count() == before


# --------------------------------------------------------------------------------------------------------------- HDF5


@pytest.mark.parametrize(("holder", "values"), [pair for pair in VALUES if pair[0] not in (TOKEN_VECTOR, POSTERIOR)])
def test_an_hdf5_table_has_one_data_set_a_key(holder: Any, values: list[Any]) -> None:
    pairs = [(f"z{9 - i}", value) for i, value in enumerate(values)]
    write("hdf5:t.h5", holder, pairs)
    found = read("hdf5:t.h5", holder)
    assert [key for key, _ in found] == [key for key, _ in pairs]  # in the order written
    for (_, value), (_, expected) in zip(found, pairs, strict=True):
        np.testing.assert_equal(_plain(value), _plain(expected))
    with h5py.File("t.h5") as file:
        assert set(file) == {key for key, _ in pairs}


def test_an_hdf5_table_of_another_program_is_read() -> None:
    with h5py.File("t.h5", "w") as file:
        file["utt"] = np.ones((2, 3))
        file["speaker/utt2"] = np.zeros((1, 3), np.int16)
    found = dict(read("hdf5:t.h5", MATRIX))
    assert found["utt"].dtype == np.float64
    assert found["speaker/utt2"].tolist() == [[0, 0, 0]]
    with RandomAccessReader("hdf5:t.h5", MATRIX) as table:
        assert "speaker/utt2" in table
        assert "speaker" not in table
    with pytest.raises(UserError, match=r"key 'speaker/utt2' in t.h5: Expected a vector .* found an array"):
        read("hdf5:t.h5", VECTOR)


def test_hdf5_links_out_of_the_file_are_not_followed() -> None:
    write("hdf5:secret.h5", INT, [("x", 1)])
    with h5py.File("t.h5", "w") as file:
        file["loop"] = h5py.SoftLink("/")
        file["out"] = h5py.ExternalLink("secret.h5", "/x")
    assert read("hdf5:t.h5", INT) == []
    with RandomAccessReader("hdf5:t.h5", INT) as table:
        assert "out" not in table
        assert "loop/out" not in table


def test_hdf5_data_that_are_elsewhere_or_only_claimed_are_not_read() -> None:
    Path("secret").write_bytes(b"x" * 16)
    with h5py.File("t.h5", "w") as file:
        file.create_dataset("outside", shape=(4,), dtype="f4", external=[("secret", 0, 16)])
    with pytest.raises(UserError, match=r"key 'outside' in t.h5: Expected data in the file itself"):
        read("hdf5:t.h5", VECTOR)
    with h5py.File("t.h5", "w") as file:
        file.create_dataset("huge", shape=(2**20, 2**20), dtype="f4")
    with pytest.raises(UserError, match=r"key 'huge' in t.h5: Expected .* bytes .* found 0"):
        read("hdf5:t.h5", MATRIX)


def test_what_hdf5_cannot_hold_is_an_error() -> None:
    with pytest.raises(UserError, match="cannot hold a table of posteriors"):
        write("hdf5:t.h5", POSTERIOR, [("k", Posterior.of_frames([]))])
    with pytest.raises(UserError, match="cannot be the name"):
        write("hdf5:t.h5", INT, [("a//b", 1)])
    with pytest.raises(UserError, match="Cannot write the key 'a/b'"):
        write("hdf5:t.h5", INT, [("a", 1), ("a/b", 2)])
    assert os.listdir() == []


def test_a_broken_hdf5_file_is_an_error() -> None:
    Path("t.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"junk" * 30)
    with pytest.raises(UserError, match="not a complete HDF5 file"):
        read("hdf5:t.h5", MATRIX)
    with pytest.raises(UserError, match="No such file"):
        RandomAccessReader("hdf5:absent.h5", MATRIX)


# --------------------------------------------------------------------------------------------------------- specifiers


def test_specifiers_are_taken_apart() -> None:
    assert parse_rspecifier("scp,p,s,cs:cat a:b |").path == "cat a:b |"
    assert parse_rspecifier("p, ark:x").options == {"p"}
    pair = parse_wspecifier("ark,scp,t:a.ark,b.scp")
    assert (pair.kind, pair.path, pair.script, pair.options) == ("ark,scp", "a.ark", "b.scp", {"t"})


@pytest.mark.parametrize(
    "text", ["foo", "", ":x", "ark", "ark,scp:x", "ark,q:x", "ark,ark:x", "ark:x ", "t:x", "scp,ark:x"]
)
def test_what_is_no_rspecifier_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="Expected"):
        parse_rspecifier(text)


@pytest.mark.parametrize("text", ["foo", "ark,scp:x", "scp,ark:x,y", "ark,cs:x", "ark:x\t", "ark,ark:x", "hdf5,ark:x"])
def test_what_is_no_wspecifier_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="Expected"):
        parse_wspecifier(text)


# --------------------------------------------------------------------------------------------------------- recordings


def wave(channels: int = 1, samples: int = 50) -> Wave:
    return Wave(8000.0, np.random.default_rng(0).integers(-32768, 32768, (channels, samples)).astype(np.float32))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_reads_back_from_an_archive_and_files(channels: int) -> None:
    write("ark:a", WAVE, [("r1", wave(channels)), ("r2", wave(channels))])
    found = dict(read("ark:a", WAVE))
    assert found["r2"].sample_rate == 8000
    np.testing.assert_array_equal(found["r2"].samples, wave(channels).samples)


def test_a_recording_is_a_wav_file_for_others() -> None:
    import wave as standard

    Path("out.scp").write_text("r r.wav\n")
    write("scp:out.scp", WAVE, [("r", wave(2))])
    with standard.open("r.wav") as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8000, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
    np.testing.assert_array_equal(samples, wave(2).samples)


def wav_bytes() -> bytes:
    write("ark:a", WAVE, [("r", wave())])
    return Path("a").read_bytes()[2:]


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF])
def test_a_recording_of_unknown_length_goes_on_to_the_end(length: int) -> None:
    data = wav_bytes()
    field = length.to_bytes(4, "little")
    Path("r.wav").write_bytes(data[:4] + field + data[8:40] + field + data[44:])
    Path("r.scp").write_text("r cat r.wav |\n")
    np.testing.assert_array_equal(read("scp:r.scp", WAVE)[0][1].samples, wave().samples)


def test_other_parts_of_a_wav_file_are_passed_over() -> None:
    data = wav_bytes()
    junk = b"LIST\x05\0\0\0abcde"
    extensible = b"fmt \x28\0\0\0\xfe\xff" + data[22:36] + b"\x16\0\x10\0\x04\0\0\0"
    extensible += bytes.fromhex("0100000000001000800000aa00389b71")
    Path("r.wav").write_bytes(data[:12] + junk + extensible + junk + data[36:])
    Path("r.scp").write_text("r r.wav\n")
    np.testing.assert_array_equal(read("scp:r.scp", WAVE)[0][1].samples, wave().samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"OGGS" + d[4:], "starts with RIFF"),
        (lambda d: d[:8] + b"WAVX" + d[12:], 'expected "WAVE"'),
        (lambda d: d[:20] + b"\x03\0" + d[22:], "format 3"),
        (lambda d: d[:34] + b"\x08\0" + d[36:], "8-bit PCM"),
        (lambda d: d[:22] + b"\0\0" + d[24:], "contradicts itself"),
        (lambda d: d[:24] + b"\0\0\0\0" + d[28:], "contradicts itself"),
        (lambda d: d[:30], "the data end too early"),
        (lambda d: d[:40] + b"\x01\0\0\0" + d[44:], "no samples"),
        (lambda d: d[:12] + b"LIST\xff\xff\xff\x7f" + d[12:], "has 2147483647 more bytes, found 132"),
        (lambda d: d[:36], "the part 'data'"),
    ],
)
def test_what_is_no_16_bit_wav_file_is_an_error(change: Any, message: str) -> None:
    Path("r.wav").write_bytes(change(wav_bytes()))
    Path("r.scp").write_text("r r.wav\n")
    with pytest.raises(UserError, match=f"key 'r': r.wav, byte .*{message}"):
        read("scp:r.scp", WAVE)

"""Matrices and vectors, full, sparse and compressed."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import kaldiio
import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import (
    ONE_BYTE,
    PERCENTILES,
    TWO_BYTES,
    CompressedMatrix,
    compress,
)
from nnet3py.tables.general_matrix import (
    read_compressed_matrix,
    read_general_matrix,
    row_range,
    to_array,
    write_compressed_matrix,
    write_general_matrix,
)
from nnet3py.tables.matrix import (
    read_int_vector,
    read_matrix,
    read_vector,
    write_int_vector,
    write_matrix,
    write_vector,
)
from nnet3py.tables.sparse_matrix import SparseMatrix, read_sparse_matrix, write_sparse_matrix
from nnet3py.tables.streams import Sink, Source


def source_of(data: bytes) -> Source:
    return Source(io.BytesIO(data), "memory")


def bytes_of(write: Callable[..., None], *arguments: Any) -> bytes:
    buffer = io.BytesIO()
    write(Sink(buffer, "memory"), *arguments)
    return buffer.getvalue()


def random_matrix(rows: int = 20, columns: int = 7, seed: int = 0) -> np.ndarray[Any, Any]:
    return (10 * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ full matrices


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_matrix_keeps_its_bits_and_its_type(kind: type) -> None:
    matrix = random_matrix().astype(kind) / 3
    matrix[0, :3] = [np.nan, np.inf, -0.0]
    read = read_matrix(source_of(bytes_of(write_matrix, matrix, True)), True)
    assert read.dtype == kind
    np.testing.assert_array_equal(read, matrix)
    read[0, 0] = 1.0  # it can be written to


def test_a_matrix_that_is_a_view_is_written_in_order() -> None:
    matrix = random_matrix()
    for view in (matrix.T, matrix[::2, 1:4], matrix[:, ::-1]):
        np.testing.assert_array_equal(read_matrix(source_of(bytes_of(write_matrix, view, True)), True), view)


def test_kaldiio_reads_what_we_write_and_we_what_it_writes() -> None:
    matrix = random_matrix()
    ours = b"\0B" + bytes_of(write_matrix, matrix, True)
    np.testing.assert_array_equal(kaldiio.matio.read_kaldi(io.BytesIO(ours)), matrix)
    theirs = io.BytesIO()
    kaldiio.matio.write_array(theirs, matrix)
    assert theirs.getvalue() == ours


def test_text_rounds_to_seven_digits_and_reads_back() -> None:
    matrix = random_matrix()
    text = bytes_of(write_matrix, matrix, False)
    assert text.startswith(b" [\n  ")
    assert text.endswith(b" ]\n")
    np.testing.assert_allclose(read_matrix(source_of(text), False), matrix, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[ 1 2\n 3 4 ]\n", [[1, 2], [3, 4]]),
        (b"[1 2;3 4]", [[1, 2], [3, 4]]),
        (b"\n [\n\n 1 2 \r\n 3 4 ]\r\n", [[1, 2], [3, 4]]),
        (b"[ nan INF -inf 1e-3 ]\n", [[np.nan, np.inf, -np.inf, 0.001]]),
        (b"[ ]\n", []),
        (b"[]\n", []),
    ],
)
def test_text_matrices_are_read_in_all_their_spellings(text: bytes, expected: list[list[float]]) -> None:
    source = source_of(text)
    matrix = read_matrix(source, False)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32).reshape(len(expected), -1 if expected else 0))
    assert source.at_end()


def test_what_follows_a_text_matrix_stays_to_be_read() -> None:
    source = source_of(b" [\n 1 2 ]\n<Next> [ 3 ] <Last> ")
    assert read_matrix(source, False).tolist() == [[1, 2]]
    assert source.read_word() == b"<Next>"
    assert read_vector(source, False).tolist() == [3]
    assert source.read_word() == b"<Last>"


def test_a_decimal_is_rounded_to_a_float_once() -> None:
    # Just above the middle between 1 and the next float: through float64 alone it would round to the even 1.
    above = "1.00000005960464477539062500000000000001"
    middle = "1.000000059604644775390625"
    matrix = read_matrix(source_of(f"[ {above} {middle} ]".encode()), False)
    assert matrix.tolist() == [[float(np.nextafter(np.float32(1), np.float32(2))), 1.0]]


def test_an_empty_matrix_is_nought_by_nought() -> None:
    data = bytes_of(write_matrix, np.empty((0, 13), np.float32), True)
    assert data == b"FM \x04\0\0\0\0\x04\0\0\0\0"
    assert read_matrix(source_of(data), True).shape == (0, 0)
    assert bytes_of(write_matrix, np.empty((0, 13)), False) == b" [ ]\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"XM \x04\0\0\0\0\x04\0\0\0\0", 'expected a matrix .*found "XM "'),
        (b"CM9 ....", "expected CM, CM2 or CM3"),
        (b"FM \x08\x01\0\0\0\x04\x01\0\0\0....", "expected the size of a matrix"),
        (b"FM \x04\xff\xff\xff\xff\x04\x01\0\0\0", "found -1 rows"),
        (b"FM \x04\x01\0\0\0\x04\0\0\0\0", "found 1 rows and 0 columns"),
        (b"FM \x04\xff\xff\xff\x7f\x04\xff\xff\xff\x7f1234", "found 4"),
        (b"FM \x04\x02\0\0\0\x04\x02\0\0\0" + b"x" * 15, "expected 16 more bytes, found 15"),
        (b"FM ", "expected 13 more bytes"),
        (b"", "found the end of the data"),
    ],
)
def test_a_corrupt_matrix_is_an_error_that_names_the_byte(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"memory, byte [0-9]+: .*{message}"):
        read_matrix(source_of(data), True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1 2 ]", 'expected "\\[", the start of a matrix'),
        (b"", "found the end of the data"),
        (b"[ 1 2\n 3 ]", "expected 2 numbers in a row, found 1"),
        (b"[ 1 two ]", 'expected numbers, found "two"'),
        (b"[ 1 2\n 3 4\n", "the data end within a matrix that starts at byte 0"),
        (b"[ 1_0 ]", "expected numbers"),
    ],
)
def test_a_corrupt_text_matrix_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_matrix(source_of(data), False)


# ------------------------------------------------------------------------------------------------------------ vectors


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_vector_keeps_its_bits_and_its_type(kind: type) -> None:
    vector = random_matrix().ravel().astype(kind) / 3
    read = read_vector(source_of(bytes_of(write_vector, vector, True)), True)
    assert read.dtype == kind
    np.testing.assert_array_equal(read, vector)


def test_vectors_in_text() -> None:
    assert bytes_of(write_vector, np.array([0.5, 2.0]), False) == b" [ 0.5 2 ]\n"
    assert read_vector(source_of(b" [ 0.5 2 ]\n"), False).tolist() == [0.5, 2]
    assert read_vector(source_of(b"[]"), False).size == 0
    with pytest.raises(UserError, match="is it a matrix"):
        read_vector(source_of(b"[ 1 2\n 3 4 ]\n"), False)


def test_a_corrupt_vector_is_an_error() -> None:
    with pytest.raises(UserError, match=r'expected a vector .*found "FM "'):
        read_vector(source_of(b"FM \x04\0\0\0\0"), True)
    with pytest.raises(UserError, match="found 3"):
        read_vector(source_of(b"FV \x04\xff\xff\xff\x7fabc"), True)


@pytest.mark.parametrize("binary", [True, False])
def test_integer_vectors_inside_objects(binary: bool) -> None:
    values = [3, -1, 2**31 - 1]
    data = bytes_of(write_int_vector, values, binary)
    assert data == (b"\x04\x03\0\0\0" + struct.pack("<3i", *values) if binary else b"[ 3 -1 2147483647 ]\n")
    assert read_int_vector(source_of(data), binary).tolist() == values


def test_a_corrupt_integer_vector_is_an_error() -> None:
    with pytest.raises(UserError, match="integer size 8"):
        read_int_vector(source_of(b"\x08\x01\0\0\0abcdefgh"), True)
    with pytest.raises(UserError, match="found 3"):
        read_int_vector(source_of(b"\x04\xff\xff\xff\x7fabc"), True)


# --------------------------------------------------------------------------------------------------------- compressed


@pytest.mark.parametrize(
    ("method", "form", "tolerance"),
    [(1, PERCENTILES, 0.5), (2, PERCENTILES, 0.5), (3, TWO_BYTES, 1e-3), (5, ONE_BYTE, 0.15)],
)
def test_compression_keeps_values_near(method: int, form: int, tolerance: float) -> None:
    matrix = random_matrix()
    compressed = compress(matrix, method)
    assert compressed.form == form
    assert compressed.shape == matrix.shape
    np.testing.assert_allclose(compressed.to_array(), matrix, atol=tolerance)


def test_the_automatic_method_depends_on_the_number_of_rows() -> None:
    assert compress(random_matrix(8)).form == TWO_BYTES
    assert compress(random_matrix(9)).form == PERCENTILES


@pytest.mark.parametrize(
    ("method", "values"),
    [(4, [-32768, -1, 0, 77, 32767]), (6, [0, 1, 128, 255]), (7, [0, 1])],
)
def test_fixed_ranges_keep_the_values_they_are_made_for(method: int, values: list[int]) -> None:
    assert compress(np.array([values], np.float32), method).to_array().tolist() == [values]


@pytest.mark.parametrize("method", [4, 6, 7])
def test_fixed_ranges_cut_off_what_is_outside(method: int) -> None:
    expanded = compress(np.array([[-1e9, 1e9]], np.float32), method).to_array()
    low, high = {4: (-32768, 32767), 6: (0, 255), 7: (0, 1)}[method]
    assert expanded.tolist() == [[low, high]]


@pytest.mark.parametrize("method", [2, 3, 5])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 1e30])
def test_a_constant_matrix_can_be_compressed(method: int, value: float) -> None:
    matrix = np.full((10, 3), value, np.float32)
    np.testing.assert_allclose(compress(matrix, method).to_array(), matrix, rtol=1e-4, atol=1e-3 * max(1, abs(value)))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7])
def test_the_speech_method_takes_any_number_of_rows(rows: int) -> None:
    compressed = compress(random_matrix(rows), 2)
    assert compressed.form == PERCENTILES
    headers = compressed.column_headers.astype(int)
    assert (np.diff(headers, axis=1) > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_cannot_be_compressed(value: float) -> None:
    matrix = random_matrix()
    matrix[3, 3] = value
    for method in range(1, 8):
        with pytest.raises(UserError, match="NaN or infinite"):
            compress(matrix, method)


def test_a_method_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UserError, match="from 1 to 7, found 8"):
        compress(random_matrix(), 8)


@pytest.mark.parametrize("method", [2, 3, 5])
def test_a_compressed_matrix_comes_out_as_it_went_in(method: int) -> None:
    data = bytes_of(write_compressed_matrix, compress(random_matrix(), method), True)
    source = source_of(data)
    assert bytes_of(write_compressed_matrix, read_compressed_matrix(source, True), True) == data
    assert source.at_end()


def test_an_empty_compressed_matrix_has_kaldis_bytes() -> None:
    data = bytes_of(write_compressed_matrix, compress(np.empty((0, 5), np.float32)), True)
    assert data == b"CM " + b"\0" * 16
    assert read_compressed_matrix(source_of(data), True).to_array().shape == (0, 0)


def test_a_full_matrix_read_as_compressed_is_compressed() -> None:
    matrix = random_matrix()
    data = bytes_of(write_matrix, matrix, True)
    expected = compress(matrix)
    assert (read_compressed_matrix(source_of(data), True).data == expected.data).all()


@pytest.mark.parametrize("method", [2, 3, 5])
def test_rows_of_a_compressed_matrix_are_those_of_the_expanded_one(method: int) -> None:
    compressed = compress(random_matrix(), method)
    whole = compressed.to_array()
    np.testing.assert_array_equal(compressed.row_range(4, 9).to_array(), whole[4:13])
    padded = compressed.row_range(-3, 26).to_array()
    np.testing.assert_array_equal(padded, whole[np.clip(np.arange(-3, 23), 0, 19)])


def test_few_rows_of_the_speech_form_become_two_bytes() -> None:
    compressed = compress(random_matrix(), 2)
    part = compressed.row_range(2, 7)
    assert part.form == TWO_BYTES
    np.testing.assert_allclose(part.to_array(), compressed.to_array()[2:9], atol=1e-3)
    assert compressed.row_range(2, 8).form == PERCENTILES
    assert compress(random_matrix(), 5).row_range(2, 3).form == ONE_BYTE


@pytest.mark.parametrize(
    "data",
    [
        b"CM " + struct.pack("<ffii", 0, 1, 2**31 - 1, 2**31 - 1) + b"data",
        b"CM2 " + struct.pack("<ffii", 0, 1, 2**30, 4) + b"data",
        b"CM3 " + struct.pack("<ffii", 0, 1, -5, 4) + b"data",
        b"CM3 " + struct.pack("<ffii", 0, 1, 5, -4) + b"data",
        b"CM " + struct.pack("<ffii", 0, 1, 2, 1) + b"\0" * 9,
        b"CM2 \0\0",
    ],
)
def test_a_corrupt_compressed_matrix_is_an_error(data: bytes) -> None:
    with pytest.raises(UserError, match=r"memory, byte [0-9]+"):
        read_matrix(source_of(data), True)


def test_strange_headers_expand_without_failing() -> None:
    head = struct.pack("<ffii", np.nan, np.inf, 2, 1) + struct.pack("<4H", 5, 4, 3, 2) + b"\0\xff"
    assert read_matrix(source_of(b"CM " + head), True).shape == (2, 1)


# -------------------------------------------------------------------------------------------------------------- sparse


def sparse() -> SparseMatrix:
    return SparseMatrix.from_rows([[(3, 0.5), (1, 0.25)], [], [(0, 1.0)], [(4, 2.0)]], 5)


def test_a_sparse_matrix_in_full() -> None:
    expected = np.zeros((4, 5), np.float32)
    expected[0, [1, 3]], expected[2, 0], expected[3, 4] = [0.25, 0.5], 1.0, 2.0
    np.testing.assert_array_equal(sparse().to_array(), expected)


def test_pairs_of_one_column_are_added_and_zeros_left_out() -> None:
    matrix = SparseMatrix.from_rows([[(2, 0.5), (1, 0.0), (2, 0.25), (0, 1.0), (0, -1.0)]], 3)
    assert matrix.indices.tolist() == [2]
    assert matrix.values.tolist() == [0.75]
    with pytest.raises(ValueError, match="column 3"):
        SparseMatrix.from_rows([[(3, 1.0)]], 3)


def test_a_sparse_matrix_has_kaldis_bytes_and_text() -> None:
    matrix = SparseMatrix.from_rows([[(1, 0.5)], []], 3)
    expected = b"SM \x04\x02\0\0\0SV \x04\x03\0\0\0\x04\x01\0\0\0\x04\x01\0\0\0\x04\0\0\0\x3f"
    expected += b"SV \x04\x03\0\0\0\x04\0\0\0\0"
    assert bytes_of(write_sparse_matrix, matrix, True) == expected
    assert bytes_of(write_sparse_matrix, matrix, False) == b"rows=2 dim=3 [ 1 0.5 ] dim=3 [ ] \n"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("rows", [[[(3, 0.5), (1, 0.25)], [], [(0, 1.0)]], [[(2, 1.0)]] * 6, []])
def test_a_sparse_matrix_reads_back(binary: bool, rows: list[list[tuple[int, float]]]) -> None:
    matrix = SparseMatrix.from_rows(rows, 5)
    source = source_of(bytes_of(write_sparse_matrix, matrix, binary))
    read = read_sparse_matrix(source, binary)
    np.testing.assert_array_equal(read.indptr, matrix.indptr)
    np.testing.assert_array_equal(read.indices, matrix.indices)
    np.testing.assert_array_equal(read.values, matrix.values)
    assert read.num_cols == (5 if rows else 0)
    source.skip_space()
    assert source.at_end()


def test_rows_are_taken_in_any_order() -> None:
    matrix = sparse()
    np.testing.assert_array_equal(matrix.take_rows([2, 0, 0, 1]).to_array(), matrix.to_array()[[2, 0, 0, 1]])


def test_values_of_eight_bytes_are_read() -> None:
    data = b"SM \x04\x01\0\0\0SV \x04\x03\0\0\0\x04\x01\0\0\0\x04\x01\0\0\0\x08" + struct.pack("<d", 0.5)
    assert read_sparse_matrix(source_of(data), True).to_array().tolist() == [[0, 0.5, 0]]


@pytest.mark.parametrize(
    "data",
    [
        b"SM \x04\xff\xff\xff\x7f",
        b"SM \x04\xff\xff\xff\xff",
        b"SM \x04\x01\0\0\0SV \x04\x03\0\0\0\x04\x04\0\0\0",
        b"SM \x04\x01\0\0\0SV \x04\xff\xff\xff\x7f\x04\xff\xff\xff\x7f",
        b"SM \x04\x01\0\0\0SV \x04\x03\0\0\0\x04\x01\0\0\0\x04\x03\0\0\0\x04\0\0\0\x3f",
        b"SM \x04\x01\0\0\0XV \x04\x03\0\0\0",
        b"SM \x04\x02\0\0\0SV \x04\x03\0\0\0\x04\0\0\0\0",
    ],
)
def test_a_corrupt_sparse_matrix_is_an_error(data: bytes) -> None:
    with pytest.raises(UserError, match=r"memory, byte [0-9]+"):
        read_general_matrix(source_of(data), True)


@pytest.mark.parametrize("text", [b"rows=x ", b"rows=1 dim=3 1 2", b"rows=1 dim=3 [ 5 1 ] ", b"rows=2 dim=3 [ 1 1 ] "])
def test_a_corrupt_sparse_text_is_an_error(text: bytes) -> None:
    with pytest.raises(UserError, match=r"memory, byte [0-9]+"):
        read_general_matrix(source_of(text), False)


# ------------------------------------------------------------------------------------------------------------- general


@pytest.mark.parametrize("matrix", [random_matrix(), compress(random_matrix()), sparse()], ids=["full", "CM", "SM"])
def test_a_general_matrix_keeps_its_form(matrix: Any) -> None:
    read = read_general_matrix(source_of(bytes_of(write_general_matrix, matrix, True)), True)
    assert type(read) is type(matrix)
    np.testing.assert_array_equal(to_array(read), to_array(matrix))
    text = read_general_matrix(source_of(bytes_of(write_general_matrix, matrix, False)), False)
    np.testing.assert_allclose(to_array(text), to_array(matrix), rtol=1e-6)
    part = row_range(matrix, -1, 3)
    assert type(part) is type(matrix)
    np.testing.assert_allclose(to_array(part), to_array(matrix)[[0, 0, 1]], atol=1e-3)


def test_an_empty_matrix_of_any_form_is_written_in_full() -> None:
    empty = bytes_of(write_matrix, np.empty((0, 0), np.float32), True)
    assert bytes_of(write_general_matrix, compress(np.empty((0, 0))), True) == empty
    assert bytes_of(write_general_matrix, SparseMatrix.from_rows([], 3), True) == empty
    with pytest.raises(ValueError, match="no row to repeat"):
        row_range(np.empty((0, 0)), 0, 1)
    assert isinstance(row_range(compress(random_matrix()), 0, 0), CompressedMatrix)

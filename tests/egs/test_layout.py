"""Examples recognised by their layout are the examples that scanning finds, and what is damaged is found as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.egs.layout import KnownLayouts
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import compress
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import SequentialReader, TableWriter

INDEXES = np.array([(0, t, 0) for t in range(12)], np.int32)


def examples() -> Iterator[tuple[str, Example]]:
    """Several layouts in no order: three forms of inputs, labels one a row or several, few rows and more."""
    random = np.random.default_rng(4)
    for number in range(60):
        rows = (12, 9)[number % 2]
        features = random.standard_normal((rows, 6)).astype(np.float32)
        kind = int(random.integers(3))
        matrix = features if kind == 0 else compress(features, (2, 3)[kind - 1])
        several = number % 7 == 0
        rows_of_labels = []
        for _ in range(rows):
            classes, weights = sorted(random.choice(9, 1 + several, False)), random.random(1 + several)
            rows_of_labels.append([(int(c), float(w)) for c, w in zip(classes, weights, strict=True)])
        labels = SparseMatrix.from_rows(rows_of_labels, 9)
        ios = [
            NnetIo("input", INDEXES[:rows], matrix),
            NnetIo("output", INDEXES[:rows], labels),
        ]
        yield f"key-{number}", Example(ios)


def write(path: Path) -> bytes:
    with TableWriter(f"ark:{path}", EXAMPLE) as writer:
        for key, example in examples():
            writer.write(key, example)
    return path.read_bytes()


def outcome(path: Path) -> tuple[list[tuple[str, bytes]], str]:
    """What a reader finds before it ends or complains, and the complaint."""
    found = []
    try:
        with SequentialReader(f"ark:{path}", EXAMPLE) as reader:
            for key, example in reader:
                found.append((key, example.encoded()))
    except UserError as problem:
        return found, str(problem)
    return found, ""


def test_examples_are_the_same_whether_or_not_their_layout_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "egs.ark")
    known, complaint = outcome(tmp_path / "egs.ark")
    assert not complaint
    monkeypatch.setattr(KnownLayouts, "learn", lambda *_: None)
    assert known == outcome(tmp_path / "egs.ark")[0]
    assert known == [(key, example.encoded()) for key, example in examples()]


def test_structures_do_not_depend_on_how_an_example_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "egs.ark")
    structures = []
    for _ in range(2):
        with SequentialReader(f"ark:{tmp_path / 'egs.ark'}", EXAMPLE) as reader:
            structures.append([example.structure for _, example in reader])
        monkeypatch.setattr(KnownLayouts, "learn", lambda *_: None)
    assert structures[0] == structures[1]
    assert len(set(structures[0])) > 1


def test_damage_is_found_as_by_scanning(tmp_path: Path) -> None:
    whole = write(tmp_path / "egs.ark")
    random = np.random.default_rng(9)
    complaints = 0
    for trial in range(150):
        damaged = bytearray(whole)
        place = int(random.integers(len(whole)))
        if trial % 3 == 0:
            del damaged[place:]
        elif trial % 3 == 1:
            damaged[place] ^= 1 << int(random.integers(8))
        else:
            del damaged[place : place + int(random.integers(1, 9))]
        path = tmp_path / "damaged.ark"
        path.write_bytes(damaged)
        known = outcome(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KnownLayouts, "learn", lambda *_: None)
            assert known == outcome(path), (trial, place)
        complaints += bool(known[1])
    assert complaints > 50

"""Tables of recordings copied and measured: what ``wav-copy`` and ``wav-to-duration`` do.

Source: Kaldi src/featbin/wav-copy.cc, wav-to-duration.cc.
"""

from __future__ import annotations

from nnet3py.errors import UserError
from nnet3py.tables.holders import FLOAT, WAVE, WAVE_LENGTH
from nnet3py.tables.streams import open_input, open_output
from nnet3py.tables.table import SequentialReader, TableWriter, is_rspecifier, is_wspecifier
from nnet3py.text.expectation import Expected

_EXPECTED = Expected("a WAV file", WAVE.contents)


def copy_waves(source: str, target: str) -> int | None:
    """Copy a table of recordings to a table, or one file to a file: 16-bit WAV with the shortest header.

    Returns:
        How many recordings a table had; ``None`` for a file.

    Raises:
        UserError: one is a table and the other a file, the table is empty, or a recording cannot be read.
    """
    if is_rspecifier(source) != is_wspecifier(target):
        raise UserError(f"Expected two tables or two files, found {source!r} and {target!r}.")
    if not is_rspecifier(source):
        with open_input(source, _EXPECTED) as stream:
            wave = WAVE.read(stream)
        with open_output(target) as sink:
            WAVE.write(sink, wave, True)
        return None
    count = 0
    with SequentialReader(source, WAVE) as reader, TableWriter(target, WAVE) as writer:
        for key, wave in reader:
            writer.write(key, wave)
            count += 1
        if not count:
            raise UserError(f"The table {source} is empty; nothing is written.")
    return count


def write_durations(recordings: str, output: str) -> list[float]:
    """Write the seconds of each recording of a table, and return them.

    Raises:
        UserError: the table is empty, or a recording cannot be read.
    """
    seconds = []
    with SequentialReader(recordings, WAVE_LENGTH) as reader, TableWriter(output, FLOAT) as writer:
        for key, length in reader:
            writer.write(key, length.duration)
            seconds.append(length.duration)
        if not seconds:
            raise UserError(f"The table {recordings} is empty; nothing is written.")
    return seconds

"""Segments of recordings: a file ``segments`` says which seconds of which recording an utterance is.

Source: Kaldi src/featbin/extract-segments.cc.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.tables.holders import WAVE
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import RandomAccessReader, TableWriter
from nnet3py.tables.wave import Wave
from nnet3py.text.expectation import Expected
from nnet3py.text.lines import decode, fields

_EXPECTED = Expected("a file of segments", form=None, usual_names=("segments",))
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CHANNEL = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Segment:
    """A line of ``segments``.

    Attributes:
        name: of the utterance.
        recording: the key of its recording.
        start: seconds.
        end: seconds; -1 for the recording's end.
        channel: of the recording; -1 if the line does not say.
    """

    name: str
    recording: str
    start: float
    end: float
    channel: int = -1


def parse_segment(line: str) -> Segment:
    """A line ``utterance recording start end`` or ``utterance recording start end channel``.

    Raises:
        UserError: it is none, or the segment is empty.
    """
    words = fields(line)
    if len(words) not in (4, 5):
        raise UserError(f"expected 4 or 5 fields, found {len(words)}")
    for what, word in (("start", words[2]), ("end", words[3])):
        if not _NUMBER.fullmatch(word):
            raise UserError(f"bad {what}, expected seconds, found {word!r}")
    start, end = float(words[2]), float(words[3])
    if start < 0 or (end != -1.0 and (end <= 0 or start >= end)):
        raise UserError("empty or invalid segment")
    if len(words) == 5 and not _CHANNEL.fullmatch(words[4]):
        raise UserError(f"bad channel, expected 0 or more, found {words[4]!r}")
    return Segment(words[0], words[1], start, end, int(words[4]) if len(words) == 5 else -1)


def cut(wave: Wave, segment: Segment, min_length: float, max_overshoot: float) -> NDArray[np.float32]:
    """The segment's samples, (samples,) float32, a view of the recording's.

    Args:
        wave: its recording.
        segment: what to cut out.
        min_length: the fewest seconds it may have.
        max_overshoot: how many seconds its end may be behind the recording's, at which it is then cut.

    Raises:
        UserError: the recording does not have the segment, or it is too short.
    """
    channels, count = wave.samples.shape
    rate, length = wave.sample_rate, wave.duration
    if segment.start > length:
        raise UserError(f"its start {segment.start:g} is out of the recording's range, 0 to {length:g} seconds")
    if segment.end > np.float32(length) + np.float32(max_overshoot):
        raise UserError(f"its end {segment.end:g} is too far out of the recording's range, 0 to {length:g} seconds")
    end = length if segment.end < 0 or segment.end > length else segment.end
    first, last = int(segment.start * rate + 0.5), min(int(end * rate + 0.5), count)
    if end - segment.start < np.float32(min_length) or first >= last:
        raise UserError(f"it is too short, {end - segment.start:g} seconds (--min-segment-length is {min_length:g})")
    if segment.channel >= channels:
        raise UserError(f"its channel {segment.channel} is not one of the recording's {channels} (0 to {channels - 1})")
    return wave.samples[max(segment.channel, 0), first:last]


def _segments(path: str) -> Iterator[tuple[str, Segment | None]]:
    """The lines of a file of segments; what is wrong with one is a warning."""
    with open_input(path, _EXPECTED) as source:
        source.refuse_misfit()
        number = 0
        while data := source.readline():
            number += 1
            line = decode(data).rstrip("\r\n")
            try:
                yield line, parse_segment(line)
            except UserError as problem:
                log.warning(f"{source.name}, line {number}: invalid segment ({problem}): {line}")
                yield line, None


def extract_segments(
    recordings: str, segments: str, output: str, *, min_length: float, max_overshoot: float
) -> tuple[int, int]:
    """Cut utterances out of recordings: what the program does.

    A line that is wrong, whose recording is not there or does not have the segment, is a warning. A recording is read
    once for all segments that follow each other.

    Args:
        recordings: rspecifier of the recordings.
        segments: rxfilename of the file of segments.
        output: wspecifier of the utterances, recordings of one channel.
        min_length: the fewest seconds of an utterance.
        max_overshoot: how many seconds a segment's end may be behind the recording's.

    Returns:
        How many utterances were written, and how many lines there were.

    Raises:
        UserError: none was written, a recording cannot be read, or has several channels and a line does not choose.
    """
    done = total = 0
    with RandomAccessReader(recordings, WAVE) as reader, TableWriter(output, WAVE) as writer:
        for line, segment in _segments(segments):
            total += 1
            if segment is None:
                continue
            if segment.recording not in reader:
                log.warning(f"Could not find recording {segment.recording}, skipping segment {segment.name}")
                continue
            wave = reader[segment.recording]
            try:
                samples = cut(wave, segment, min_length, max_overshoot)
            except UserError as problem:
                log.warning(f"Skipping segment {segment.name}: {problem}: {line}")
                continue
            if segment.channel < 0 and len(wave.samples) > 1:
                raise UserError(
                    f"The recording {segment.recording} has {len(wave.samples)} channels: say in {segments} which one "
                    f"the segment {segment.name} is of, with a fifth field (0 is the left one), or give recordings of "
                    "one channel, as `sox FILE -t wav - remix 1 |` makes them."
                )
            writer.write(segment.name, Wave(wave.sample_rate, samples[None]))
            done += 1
        if done == 0:
            raise UserError(
                f"None of the {total} lines of {segments} gave a segment of {recordings}; nothing is written."
            )
    return done, total

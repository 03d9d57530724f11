"""Recordings with headers and chunks as programs everywhere write them, and files that are no WAV files."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.holders import WAVE, WAVE_LENGTH
from nnet3py.tables.other_audio import instead_of_wave
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import SequentialReader

COUNT = 101
EXTENSION = bytes.fromhex("00001000800000aa00389b71")  # the end of the identifiers of audio formats


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def samples(channels: int = 1, count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(channels).integers(-32768, 32768, (count, channels)).astype(np.int16)


def chunk(tag: bytes, data: bytes, order: str = "<", pad: bool = True, size: int | None = None) -> bytes:
    length = len(data) if size is None else size
    return tag + struct.pack(order + "I", length) + data + (b"\0" if pad and len(data) % 2 else b"")


def format_chunk(channels: int = 1, order: str = "<", code: int = 1, bits: int = 16, extra: bytes = b"") -> bytes:
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack(order + "HHIIHH", code, channels, 8000, 8000 * block, block, bits) + extra, order)


def data_chunk(channels: int = 1, order: str = "<", size: int | None = None) -> bytes:
    return chunk(b"data", samples(channels).astype(f"{order}i2").tobytes(), order, size=size)


def riff(*chunks: bytes, tag: bytes = b"RIFF", order: str = "<", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return tag + struct.pack(order + "I", len(body) if size is None else size) + body


def assert_read(data: bytes, channels: int = 1, count: int = COUNT) -> None:
    """The recording is read from a file and from a pipe, and so is its length."""
    Path("r.wav").write_bytes(data)
    for name in ("r.wav", "cat r.wav |"):
        with open_input(name) as source:
            wave = WAVE.read(source)
        np.testing.assert_array_equal(wave.samples, samples(channels)[:count].T)
        assert wave.sample_rate == 8000
        with open_input(name) as source:
            length = WAVE_LENGTH.read(source)
        assert (length.samples, length.sample_rate, length.duration) == (count, 8000, wave.duration)


def error_of(data: bytes, name: str = "r.wav") -> str:
    Path(name).write_bytes(data)
    with open_input(name) as source, pytest.raises(UserError) as caught:
        WAVE.read(source)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("pad", [True, False], ids=["padded", "not padded, as Kaldi expects"])
@pytest.mark.parametrize("length", [3, 4, 7])
def test_chunks_of_any_length_may_stand_anywhere(pad: bool, length: int) -> None:
    others = [chunk(tag, b"x" * length, pad=pad) for tag in (b"LIST", b"bext", b"fact", b"JUNK", b"iXML")]
    assert_read(riff(*others[:3], format_chunk(), *others[1:], data_chunk(), *others))


def test_a_byte_that_fills_up_need_not_be_zero() -> None:
    assert_read(riff(chunk(b"LIST", b"abc", pad=False) + b"?", format_chunk(), data_chunk()))


def test_a_format_of_an_odd_number_of_bytes_is_padded_too() -> None:
    assert_read(riff(format_chunk(extra=b"\0" * 3), data_chunk()))
    assert_read(riff(format_chunk(extra=b"\0" * 35), data_chunk()))


def test_zeros_that_fill_up_a_header_are_passed_over() -> None:
    assert_read(riff(format_chunk(), b"\0" * 16, data_chunk()))


@pytest.mark.parametrize("channels", [1, 2, 9, 300])
def test_any_number_of_channels_is_read(channels: int) -> None:
    assert_read(riff(format_chunk(channels), data_chunk(channels)), channels)


@pytest.mark.parametrize(
    "identifier",
    [b"\0\0\0\1" + bytes.fromhex(end) for end in ("00100000aa000080719b3800", "00000010800000aa00389b71")],
)
def test_big_endian_files_are_read(identifier: bytes) -> None:
    assert_read(riff(format_chunk(2, ">"), data_chunk(2, ">"), tag=b"RIFX", order=">"), 2)
    extra = struct.pack(">HHI", 22, 16, 3) + identifier
    assert_read(riff(format_chunk(2, ">", 0xFFFE, extra=extra), data_chunk(2, ">"), tag=b"RIFX", order=">"), 2)


def test_the_first_of_several_data_chunks_is_used_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    assert_read(riff(format_chunk(), data_chunk(), chunk(b"LIST", b"abc"), data_chunk()))
    assert "several parts 'data'" in capfd.readouterr().err


def test_part_of_a_sample_at_the_end_is_left_out() -> None:
    assert_read(riff(format_chunk(2), chunk(b"data", samples(2).tobytes() + b"abc")), 2)


# -------------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("total", "length"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0x7FFFF024, 0x7FFFF000),  # sox
        (0, 0),
        (0, 2 * COUNT),
        (36, 0),  # a program that was stopped before it wrote the length
        (0x80000024, 0x80000000),  # arecord
        (0x7FFFFFFF, 0x7FFFFFFF),
    ],
)
def test_samples_of_unknown_length_go_on_to_the_end(total: int, length: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert_read(riff(format_chunk(), chunk(b"LIST", b"ISFTx"), data_chunk(size=length), size=total))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("total", [10, 1000, 1 << 30])
def test_a_wrong_length_of_the_whole_file_does_no_harm(total: int) -> None:
    assert_read(riff(format_chunk(), data_chunk(), size=total))


def test_a_recording_cut_off_is_used_as_far_as_it_goes_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    assert_read(riff(format_chunk(), data_chunk())[:-61], count=COUNT - 31)
    assert "r.wav: expected 202 bytes of samples, found 141 before the data end" in capfd.readouterr().err


def test_bytes_behind_the_samples_that_are_no_chunks_get_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    half = chunk(b"data", samples().tobytes(), size=100)
    assert_read(riff(format_chunk(), half), count=50)
    assert "102 bytes that should follow the samples are no part" in capfd.readouterr().err


def ds64(total: int, data: int, table: bytes = b"") -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", total, data, COUNT, len(table) // 12) + table)


@pytest.mark.parametrize("tag", [b"RF64", b"BW64"])
def test_lengths_of_eight_bytes_are_read(tag: bytes) -> None:
    size = 2 * COUNT
    large = chunk(b"LIST", b"abc", size=0xFFFFFFFF)
    chunks = [ds64(1000, size, struct.pack("<4sQ", b"LIST", 3)), format_chunk(), large, data_chunk(size=0xFFFFFFFF)]
    assert_read(riff(*chunks, chunk(b"LIST", b"behind"), tag=tag, size=0xFFFFFFFF))
    # The lengths that a program could not fill in afterwards, and a file that was short enough in the end.
    assert_read(riff(ds64(0, 0), format_chunk(), data_chunk(size=0xFFFFFFFF), tag=tag, size=0xFFFFFFFF))
    assert_read(riff(format_chunk(), data_chunk(size=0xFFFFFFFF), tag=tag, size=0xFFFFFFFF))
    assert "'ds64' of a WAV file in 28 bytes" in error_of(riff(chunk(b"ds64", b"1234"), format_chunk(), tag=tag))


# ------------------------------------------------------------------------------------------------------------- archives


def test_an_archive_goes_on_after_chunks_that_follow_the_samples() -> None:
    odd = chunk(b"data", samples().tobytes() + b"a")
    records = [
        riff(format_chunk(), data_chunk(), chunk(b"LIST", b"abc"), chunk(b"id3 ", b"abcd")),
        riff(format_chunk(), odd),
        riff(format_chunk(), data_chunk(), size=1 << 20),  # a wrong length does not take in the next recording
        riff(ds64(0x200, 2 * COUNT), format_chunk(), data_chunk(size=0xFFFFFFFF), tag=b"RF64", size=0xFFFFFFFF),
        riff(format_chunk(), data_chunk()),
    ]
    Path("a.ark").write_bytes(b"".join(b"utt%d %s" % (number, record) for number, record in enumerate(records)))
    found = dict(SequentialReader("ark:a.ark", WAVE))
    assert list(found) == [f"utt{number}" for number in range(5)]
    for wave in found.values():
        np.testing.assert_array_equal(wave.samples, samples().T)
    assert [(key, length.samples) for key, length in SequentialReader("ark:cat a.ark |", WAVE_LENGTH)] == [
        (key, COUNT) for key in found
    ]


@pytest.mark.parametrize("holder", [WAVE, WAVE_LENGTH], ids=["samples", "length"])
def test_a_recording_without_a_length_does_not_take_in_the_next_of_an_archive(holder: object) -> None:
    piped = riff(format_chunk(), data_chunk(size=0xFFFFFFFF), size=0xFFFFFFFF)
    Path("last.ark").write_bytes(b"u1 " + riff(format_chunk(), data_chunk()) + b"u2 " + piped)
    assert [key for key, _ in SequentialReader("ark:last.ark", holder)] == ["u1", "u2"]  # type: ignore[arg-type]
    Path("first.ark").write_bytes(b"u1 " + piped + b"u2 " + riff(format_chunk(), data_chunk()))
    with pytest.raises(UserError, match=r"'u1'.*does not say its length and another one follows.*wav-copy"):
        list(SequentialReader("ark:first.ark", holder))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("code", "bits", "kind"),
    [
        (1, 8, "8-bit PCM"),
        (1, 24, "24-bit PCM"),
        (3, 32, "floating-point numbers (format 3, 32 bits)"),
        (6, 8, "A-law (format 6, 8 bits)"),
        (7, 8, "mu-law (format 7, 8 bits)"),
        (0x11, 4, "IMA ADPCM"),
        (0x55, 0, "MP3"),
        (0x1234, 16, "an encoding unknown here (format 4660"),
    ],
)
@pytest.mark.parametrize("extensible", [False, True])
def test_other_encodings_are_named_with_the_command_that_converts_them(
    code: int, bits: int, kind: str, extensible: bool
) -> None:
    extra = struct.pack("<HHII", 22, bits, 4, code) + EXTENSION if extensible else b""
    message = error_of(
        riff(format_chunk(code=0xFFFE if extensible else code, bits=bits, extra=extra), data_chunk()), "my file.wav"
    )
    assert f"my file.wav, byte 16: expected samples of 16-bit PCM, found {kind}" in message
    assert "`sox 'my file.wav' -t wav -b 16 -e signed-integer - |`" in message
    assert "ffmpeg" in message


def test_an_extension_that_is_no_audio_format_is_not_taken_for_one() -> None:
    extra = struct.pack("<HHII", 22, 16, 4, 1) + b"\0" * 12
    assert "an unknown extension" in error_of(riff(format_chunk(code=0xFFFE, extra=extra), data_chunk()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            riff(chunk(b"LIST", b"abcd"), data_chunk()),
            r"part 'fmt ' .*only \"LIST\" of 4 bytes at byte 12, \"data\" of",
        ),
        (riff(format_chunk(), chunk(b"LIST", b"abc")), "part 'data' .* before the data end"),
        (riff(format_chunk(), chunk(b"LIST", b"abc", size=1 << 31), data_chunk()), "has 2147483648 more bytes, found"),
        (riff(chunk(b"fmt ", b"\1\0\1\0"), data_chunk()), "in 16 bytes or more, found 4"),
        (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8000, 32000, 2, 16))), "2 bytes a sample of all channels"),
        (
            riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 32000, 2, 16))),
            "32000 bytes a second .expected 16000",
        ),
        (riff(format_chunk(), chunk(b"data", b"")), "no samples"),
        (riff(format_chunk(2), chunk(b"data", b"abc")), "no samples"),
        (riff(format_chunk())[:-1], "the data end too early"),
    ],
)
def test_headers_that_cannot_be_used_are_errors(data: bytes, message: str) -> None:
    assert re.search(f"r.wav, byte .*{message}", error_of(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"fLaC\0\0\0\x22" + b"\x12" * 60, "a FLAC file: write `flac -c -d -s r.wav |` in its place"),
        (b"OggS\0\2" + b"\0" * 22 + b"OpusHead", "an Opus file: write `ffmpeg -v error -i r.wav"),
        (b"OggS\0\2" + b"\0" * 23 + b"vorbis", "an Ogg file"),
        (b"ID3\4" + b"\0" * 60, "an MP3 file"),
        (b"\xff\xfb\x90\x64" + b"\0" * 60, "an MP3 file"),
        (b"NIST_1A\n   1024\nchannel_count -i 1\n", "a SPHERE file: write `sph2pipe -f wav r.wav |`"),
        (b"FORM\0\0\1\0AIFFCOMM" + b"\0" * 40, "an AIFF file: write `sox r.wav"),
        (b"\0\0\0\x20ftypM4A " + b"\0" * 40, "an MP4 or M4A file"),
        (b"RIFF\0\0\1\0AVI LIST" + b"\0" * 40, "an AVI file"),
        (b"\x1f\x8b\x08\0" + b"\0" * 40, "a gzip-compressed file: write `gunzip -c r.wav |`"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>\n<html>", "a web page or XML"),
        (b"\0BFM \4\1\0\0\0", "a matrix"),
        (b"u1 /corpus/u1.wav\n", "a script: give it as scp:"),
        (b"\x01\xfe\x02\x80" * 20, "samples without a header"),
        (b"", "the file is empty"),
    ],
)
def test_a_file_that_is_no_wav_file_is_named(data: bytes, message: str) -> None:
    found = error_of(data)
    assert found.startswith("r.wav, byte 0: expected a WAV file, which starts with RIFF, found ")
    assert message in found


def test_what_comes_out_of_a_command_is_to_go_through_another() -> None:
    assert instead_of_wave(b"fLaC\0", "cat x |") == "a FLAC file: let its output go through `flac -c -d -s -`"
    assert instead_of_wave(b"fLaC\0", "standard input").endswith("write `flac -c -d -s FILE |` in its place")


def test_of_a_command_that_failed_its_failure_is_told() -> None:
    done = subprocess.run(["wav-copy", "exit 3 |", "out.wav"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "The command 'exit 3 |' exited with status 3" in done.stderr
    assert not Path("out.wav").exists()

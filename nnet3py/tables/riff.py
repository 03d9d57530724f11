"""The chunks of a WAV file around its samples, as they are met in recordings from everywhere.

A WAV file is ``RIFF``, the length of what follows, ``WAVE``, and chunks: four letters, a length, so many bytes, and a
zero byte where their number is odd. ``fmt `` says how the samples are stored, ``data`` holds them, and others
(``LIST``, ``JUNK``, ``bext``, ``fact``, ...) may stand before, between and after. What goes beyond that:

- Where the header was written before the length was known, as into a pipe, it says 0 or a number that is too large:
  the samples then go on to the end of the data.
- ``RIFX`` has its numbers in big-endian order. ``RF64`` and ``BW64`` have lengths of 8 bytes in a chunk ``ds64``.
- Some programs leave out the zero byte after an odd number of bytes. Kaldi reads only such files, and not those that
  have it, as the format demands; here both are read.
- Kaldi does not read ``RF64``, nor 256 channels and more; here they are.

Source: Kaldi src/feat/wave-reader.cc, ``WaveInfo::Read``; EBU Tech 3306 and ITU-R BS.2088 for ``ds64``.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from nnet3py import log
from nnet3py.tables.basic_types import shown
from nnet3py.tables.other_audio import instead_of_wave, to_16_bits
from nnet3py.tables.streams import Source

_PCM = 1
_EXTENSIBLE = 0xFFFE
_CODES = {
    _PCM: "PCM",
    0x0002: "Microsoft ADPCM",
    0x0003: "floating-point numbers",
    0x0006: "A-law",
    0x0007: "mu-law",
    0x0011: "IMA ADPCM",
    0x0031: "GSM 6.10",
    0x0040: "G.721 ADPCM",
    0x0045: "G.726 ADPCM",
    0x0050: "MPEG audio",
    0x0055: "MP3",
    0x00FF: "AAC",
    0x0161: "Windows Media Audio",
    _EXTENSIBLE: "an unknown extension",
}
# The rest of the identifier whose first four bytes are the code: as it should be, and in the two orders that big-endian
# files have it in (Kaldi takes the second).
_EXTENSION_ENDS = tuple(
    bytes.fromhex(end) for end in ("00001000800000aa00389b71", "00100000aa000080719b3800", "00000010800000aa00389b71")
)
_UNKNOWN_TOTALS = (0, 0xFFFFFFFF)
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF)
_PROBABLY_UNKNOWN = 0x7FFF0000  # a length this large that the file does not have was none
_RECORDING = re.compile(rb"RIF[FX]....WAVE", re.DOTALL)
_AFTER_ODD = (b"data", b"fmt ", b"fact", b"LIST")


@dataclass(frozen=True)
class WaveHeader:
    """What stands before the samples.

    Attributes:
        order: of the bytes of a number, ``<`` or ``>`` as struct and NumPy have it.
        channels: how many.
        sample_rate: samples of a channel a second.
        length: bytes of samples; ``None`` if the header does not know, and they go on to the end of the data.
        end: the byte of the stream at which the ``RIFF`` ends, as far as the header knows.
    """

    order: str
    channels: int
    sample_rate: int
    length: int | None
    end: int

    @property
    def frame(self) -> int:
        """Bytes of a sample of all channels."""
        return 2 * self.channels


def read_wave_header(source: Source) -> WaveHeader:
    """Everything up to the first sample.

    Raises:
        UserError: it is not a WAV file, its samples are not 16-bit integers, or it ends too early.
    """
    start = source.tell()
    first = source.peek(12)
    if first[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or first[8:12] == b"AVI ":
        if not first:
            source.close()  # a command that failed is the better explanation
        found = instead_of_wave(first and source.peek(512), source.name)
        raise source.error(f"expected a WAV file, which starts with RIFF, found {found}.", start)
    source.read(4)
    chunks = _Chunks(source, ">" if first[:4] == b"RIFX" else "<")
    total = chunks.uint32()
    if source.read(4) != b"WAVE":
        raise source.error(f'expected "WAVE" after RIFF and its length, found {shown(first[8:12])}.', start)
    large = chunks.read_large_sizes() if first[:4] in (b"RF64", b"BW64") else {}
    chunks.find(b"fmt ")
    channels, rate = _read_format(chunks)
    chunks.find(b"data")
    length = chunks.uint32()
    if large and total == 0xFFFFFFFF:
        total = large[b"RIFF"]
    if large and length == 0xFFFFFFFF:
        length = large[b"data"]
    unknown = total in _UNKNOWN_TOTALS or length in _UNKNOWN_LENGTHS or length >= 1 << 63
    return WaveHeader(chunks.order, channels, rate, None if unknown else length, start + 8 + total)


class _Chunks:
    """Goes from chunk to chunk up to the samples."""

    def __init__(self, source: Source, order: str) -> None:
        self.source = source
        self.order = order
        self._large: dict[bytes, int] = {}
        self._passed: list[str] = []

    def uint32(self) -> int:
        return int(struct.unpack(self.order + "I", self.source.read(4))[0])

    def find(self, wanted: bytes) -> None:
        """Pass over other chunks; stands after the wanted one's letters.

        Letters can be anything, as for Kaldi: some programs fill a header up with zeros, eight of which are a chunk.
        """
        while True:
            place = self.source.tell()
            tag = self.source.peek(4)
            if len(tag) < 4:
                seen = f"only {', '.join(self._passed[-5:])}" if self._passed else "nothing more"
                raise self.source.error(
                    f"expected the part {wanted.decode()!r} of a WAV file, found {seen} before the data end. "
                    "Is the file cut off, or its header damaged?",
                    place,
                )
            self.source.read(4)
            if tag == wanted:
                return
            size = self.uint32()
            if size == 0xFFFFFFFF:
                size = self._large.get(tag, size)
            self._passed.append(f"{shown(tag)} of {size} bytes at byte {place}")
            self.pass_over(size)

    def pass_over(self, size: int, of: int | None = None) -> None:
        """Pass over the rest, ``size`` bytes, of a chunk of ``of`` bytes, and over the zero byte that may follow."""
        place = self.source.tell()
        found = self.source.skip(size)
        if found < size:
            raise self.source.error(
                f"a part of the WAV file before its samples says that it has {size} more bytes, found {found} before "
                "the data end. Is the file cut off, or its header damaged?",
                place,
            )
        if (size if of is None else of) % 2:
            following = self.source.peek(5)
            if following[:1] == b"\0" or following[1:] in _AFTER_ODD:
                self.source.read(1)

    def read_large_sizes(self) -> dict[bytes, int]:
        """The chunk ``ds64``: lengths of the chunks whose own length is 0xFFFFFFFF. Empty where there is none."""
        if self.source.peek(4) != b"ds64":
            return {}
        self.source.read(4)
        size = self.uint32()
        if size < 28:
            raise self.source.error(f"expected the part 'ds64' of a WAV file in 28 bytes or more, found {size}.")
        total, data, _, entries = struct.unpack("<QQQI", self.source.read(28))
        self._large = {b"RIFF": total, b"data": data}
        left = size - 28
        while entries > 0 and left >= 12:
            tag, large = struct.unpack("<4sQ", self.source.read(12))
            self._large.setdefault(tag, large)
            entries, left = entries - 1, left - 12
        self.pass_over(left, size)
        return self._large


def _read_format(chunks: _Chunks) -> tuple[int, int]:
    """The chunk ``fmt ``: how many channels, and samples a second."""
    source = chunks.source
    place = source.tell()
    size = chunks.uint32()
    if size < 16:
        raise source.error(f"expected a WAV file's format in 16 bytes or more, found {size}.", place)
    data = source.read(min(size, 40))
    code, channels, rate, byte_rate, block, bits = struct.unpack(chunks.order + "HHIIHH", data[:16])
    if code == _EXTENSIBLE and len(data) == 40:
        in_order = struct.unpack(chunks.order + "I", data[24:28])[0]
        if data[28:] in _EXTENSION_ENDS:
            code = in_order
    chunks.pass_over(size - len(data), size)
    if code != _PCM or bits != 16:
        kind = f"{bits}-bit PCM" if code == _PCM else _CODES.get(code, "an encoding unknown here")
        kind += "" if code == _PCM else f" (format {code}, {bits} bits)"
        raise source.error(f"expected samples of 16-bit PCM, found {kind}: {to_16_bits(source.name)}.", place)
    if channels == 0 or rate == 0 or block != 2 * channels or byte_rate != rate * block:
        raise source.error(
            f"the header contradicts itself: {channels} channels of 16 bits, {rate} samples a second, {block} bytes a "
            f"sample of all channels (expected {2 * channels}), {byte_rate} bytes a second (expected "
            f"{rate * 2 * channels}). Find out which is right, and convert the file.",
            place,
        )
    return channels, rate


def finish_wave(source: Source, header: WaveHeader, found: int) -> None:
    """What there is to do after the samples: pass over the chunks that follow them, so that an archive can go on.

    Warns where the samples are fewer than the header says, and of what is left unread, as Kaldi does.

    Args:
        source: stands after the samples.
        header: of the recording.
        found: how many bytes of samples there were.

    Raises:
        UserError: the recording has no samples.
    """
    if found < header.frame:
        raise source.error("the recording has no samples.")
    if header.length is None:
        return
    if found < header.length:
        if header.length < _PROBABLY_UNKNOWN:
            log.warning(
                f"{source.name}: expected {header.length} bytes of samples, found {found} before the data end. Is it "
                "cut off? What is there is used."
            )
        return
    if header.length % 2 and source.peek(1) == b"\0":
        source.read(1)
    left = header.end - source.tell()
    while left >= 8:
        head = source.peek(8)
        if len(head) < 8:
            return
        tag, size = struct.unpack(header.order + "4sI", head)
        if not all(32 <= byte < 127 for byte in tag) or size > left - 8:
            log.warning(f"{source.name}: {left} bytes that should follow the samples are no part of a WAV file.")
            return
        if tag == b"data":
            log.warning(f"{source.name}: the recording has several parts 'data'; the first is used, as by Kaldi.")
        left -= source.skip(8 + size)
        if size % 2 and left > 0 and source.peek(1) == b"\0":
            left -= source.skip(1)


def refuse_another_recording(source: Source, data: bytes | bytearray, place: int) -> None:
    """Raise UserError where samples without a known length hold another recording: those of an archive.

    An archive's recording that does not say its length (or has none) would take in all that follow it, as in Kaldi.
    """
    if _RECORDING.search(data):
        raise source.error(
            "the recording does not say its length and another one follows it in the archive: write the archive with "
            "wav-copy, which puts the lengths into the headers.",
            place,
        )

"""What a file that should be a recording in WAV form is, told by its first bytes, and how to read it instead.

Kaldi's tools read one form of audio; any other comes through the pipe of a program that converts it, in ``wav.scp``.
"""

from __future__ import annotations

import re
import shlex

_SOX = "sox {} -t wav -b 16 -e signed-integer -"
_FFMPEG = "ffmpeg -v error -i {} -f wav -c:a pcm_s16le -"

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"fLaC", "a FLAC file", "flac -c -d -s {}"),
    (rb"OggS.{24,}OpusHead", "an Opus file", _FFMPEG),
    (rb"OggS", "an Ogg file", _FFMPEG),
    (rb"ID3|\xff[\xe2\xe3\xf2-\xf5\xfa-\xfd]", "an MP3 file", _FFMPEG),
    (rb"\xff[\xf1\xf9]", "an AAC file", _FFMPEG),
    (rb"NIST_1A", "a NIST SPHERE file", "sph2pipe -f wav {}"),
    (rb"riff\x2e\x91\xcf\x11", "a Wave64 file", _SOX),
    (rb"FORM....AIF[FC]", "an AIFF file", _SOX),
    (rb"\.snd|dns\.", "an AU file", _SOX),
    (rb"caff", "a CAF file", _FFMPEG),
    (rb"....ftyp", "an MP4 or M4A file", _FFMPEG),
    (rb"\x1a\x45\xdf\xa3", "a WebM or Matroska file", _FFMPEG),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA file", _FFMPEG),
    (rb"#!AMR", "an AMR file", _FFMPEG),
    (rb"RIFF....AVI ", "an AVI file", _FFMPEG),
    (rb"ajkg", "a Shorten file", "shorten -x {} -"),
    (rb"\x1f\x8b", "compressed by gzip", "gunzip -c {}"),
    (rb"BZh[1-9]", "compressed by bzip2", "bunzip2 -c {}"),
    (rb"\xfd7zXZ\0", "compressed by xz", "xz -d -c {}"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -d -c {}"),
)  # fmt: skip


def convert_with(command: str, name: str) -> str:
    """What to write in place of a file that ``command`` can convert, ``{}`` being its name."""
    if name.endswith("|"):
        return f"let its output go through `{command.format('-')}`"
    file = "FILE" if name == "standard input" else shlex.quote(name)
    return f"write `{command.format(file)} |` in its place"


def to_16_bits(name: str) -> str:
    """How to make 16-bit WAV of a file that SoX or FFmpeg can read."""
    return f"{convert_with(_SOX, name)} (or `{_FFMPEG.format('FILE')} |`)"


def instead_of_wave(first: bytes, name: str) -> str:
    """What a file with these first bytes is and what to do with it, to end a sentence with: ``a FLAC file: write ...``.

    Args:
        first: up to 64 bytes.
        name: what the stream they come from calls it, a file's name or a command that ends with ``|``.
    """
    if not first:
        return "nothing: the file is empty"
    for pattern, kind, command in _KINDS:
        if re.match(pattern, first, re.DOTALL):
            return f"{kind}: {convert_with(command, name)}"
    if first.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: fetch the file that it stands for (git lfs pull)"
    if re.match(rb"\s*<(!DOCTYPE|html|\?xml)", first, re.IGNORECASE):
        return "a page of HTML or XML: was the recording downloaded completely?"
    if first.startswith(b"\0B"):
        return "a binary object of Kaldi's, such as a matrix"
    line = first.split(b"\n", 1)[0]
    if re.fullmatch(rb"[\x20-\x7e\t\r]+", line):
        return f'text, "{line[:40].decode("ascii").strip()}": if it is a list of files, give it as scp:'
    shown = first[:12].decode("ascii", "backslashreplace")
    return f'"{shown}...": if it is samples without a header, give them one with `sox -t raw ... -t wav - |`'

"""Names that hold every kind of byte which programs trip over, and the corpus of tiny_language.py under such names.

``ODD`` are the bytes: blanks and line ends of Unicode, bytes that are not UTF-8, and what a shell acts on. The corpus
is made twice, under plain names and under odd ones that sort alike, so that whatever is made of the one can be
compared with what is made of the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_corpus import NUM_PDFS, final_config
from tiny_language import WORDS, make_spoken_corpus

from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

ODD = {
    "a no-break space": b"\xc2\xa0",
    "an ideographic space": b"\xe3\x80\x80",
    "a line separator": b"\xe2\x80\xa8",
    "a next line": b"\xc2\x85",
    "an en quad and a narrow no-break space": b"\xe2\x80\x80\xe2\x80\xaf",
    "C's file and record separators": b"\x1c\x1e\x1f",
    "a byte order mark": b"\xef\xbb\xbf",
    "that of UTF-16": b"\xff\xfe",
    "a Latin-1 letter": b"\xe4",
    "Latin-1's no-break space": b"\xa0",
    "a control character above 127": b"\x85",
    "GBK with a backslash as second byte": b"\x81\x5c",
    "an emoji": b"\xf0\x9f\x98\x80",
    "a backspace and an escape": b"\x08\x1b[31m",
    "a command": b"$(>ran)",
    "another": b"`>ran`",
    "separators of commands": b";>ran;&>ran&|>ran",
    "quotes": b'\'"\'""',
    "patterns": b"*?[a-z]{a,b}~!#%",
    "variables": b"$HOME${PATH}\\\\",
    "the name of a job": b"JOB",
    "what ranges, tables and options look like": b":1[0:1]=ark:-,t-|--config=x",
}
"""What it is -> its bytes."""

_ODD = list(ODD.values())


def odd(data: bytes) -> bytes:
    """A plain id, ``s1-u007``, as an odd one that sorts alike."""
    found = re.fullmatch(rb"(s\d)(?:(-u)(\d+))?", data)
    assert found, data
    speaker = found[1] + b"." + _ODD[int(found[1][1:])]
    return speaker if not found[3] else speaker + found[2] + found[3] + b"." + _ODD[int(found[3]) % len(_ODD)]


def odd_word(data: bytes) -> bytes:
    """A plain word, ``a`` or ``b``, or phone, ``A`` or ``B``, as one that holds every odd byte."""
    return data + b"." + b".".join(_ODD if data in b"aA" else reversed(_ODD))


def odd_line(line: bytes) -> bytes:
    """A line of plain ids and words under odd names."""
    words = re.split(rb"([ \t]+)", line)
    return b"".join(
        odd(word) if re.fullmatch(rb"s\d(-u\d+)?", word) else odd_word(word) if word in WORDS_AND_PHONES else word
        for word in words
    )


WORDS_AND_PHONES = {word.encode() for word in (*WORDS, *map(str.upper, WORDS))}


def odd_text(data: bytes) -> bytes:
    """Lines of a text file under odd names."""
    return b"\n".join(map(odd_line, data.split(b"\n")))


def rename_table(source: str, target: str, holder: Any, rename: Callable[[bytes], bytes] = odd) -> None:
    """Copy a table, its keys renamed."""
    with SequentialReader(source, holder) as reader, TableWriter(target, holder) as writer:
        for key, value in reader:
            writer.write(rename(key.encode()).decode("utf-8", "surrogateescape"), value)


def as_windows_leaves_it(path: Path) -> None:
    """A file after an editor had it: CRLF, tabs, several blanks, blanks at line ends, no line end after the last."""
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    path.write_bytes(b" \r\n".join(line.replace(b" ", b"\t ") for line in lines))


def make_twins(folder: Path, *, utterances: int = 44) -> tuple[Path, Path]:
    """The corpus and its lexicon in ``folder/plain`` and, with files as Windows leaves them, in ``folder/odd``."""
    plain, odd_ = folder / "plain", folder / "odd"
    plain.mkdir()
    (odd_ / "data").mkdir(parents=True)
    make_spoken_corpus(plain, utterances=utterances)
    (plain / "lexicon.txt").write_bytes(b"a A\nb B\n")
    speakers: dict[bytes, list[bytes]] = {}
    for line in (plain / "data/utt2spk").read_bytes().splitlines():
        speakers.setdefault(line.split()[1], []).append(line.split()[0])
    text = b"".join(b"%s %s\n" % (speaker, b" ".join(members)) for speaker, members in speakers.items())
    (plain / "data/spk2utt").write_bytes(text)
    for name in ("lexicon.txt", "data/text", "data/utt2spk", "data/spk2utt"):
        (odd_ / name).write_bytes(odd_text((plain / name).read_bytes()))
    rename_table(f"scp:{plain}/data/feats.scp", f"ark,scp:{odd_}/data/feats.ark,{odd_}/data/feats.scp", MATRIX)
    for name in ("lexicon.txt", "data/text", "data/utt2spk", "data/spk2utt", "data/feats.scp"):
        as_windows_leaves_it(odd_ / name)
    return plain, odd_


def network_config(num_pdfs: int) -> str:
    """The network of tiny_corpus.py for another number of pdfs."""
    return re.sub(rf"(output-dim|type=LogSoftmaxComponent dim)={NUM_PDFS}\b", rf"\1={num_pdfs}", final_config())

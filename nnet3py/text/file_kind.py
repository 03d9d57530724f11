r"""What kind of file it is, by its first bytes, so that a file in the wrong place can be called by its name.

Compressed files, recordings, web pages and the like have a magic number. Kaldi's objects begin with a token, after
``\0B`` in binary; an archive with a key, a blank and an object; a script with a key and where its value is. Text says
less than binary: :attr:`Kind.certain` tells whether anything else could begin with the same bytes.

Sources: ``file``'s magic numbers; Kaldi src/util/kaldi-holder-inl.h, src/util/kaldi-table-inl.h, and each object's
``Write``; OpenFst's fst/fst.cc; the pointer files of Git LFS and git-annex.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

from nnet3py.text.characters import decode

FIRST_BYTES = 512
"""How many bytes of a file are enough for :func:`describe`."""


class Form(enum.Enum):
    """How a file holds what it holds."""

    ONE = "one thing by itself"
    ARCHIVE = "things after their keys"
    SCRIPT = "keys and where their values are"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what people call it, with its article: "a gzip-compressed file", "an archive of matrices".
        content: a word for what is in it, by which programs tell it: "gzip", "matrix".
        form: by itself, or under keys.
        certain: nothing else begins with these bytes. A text that looks like an archive of integers may be another.
        key: of an archive or script the first key.
        value_start: of an archive the byte at which the first value starts, as a script would give it.
    """

    name: str
    content: str
    form: Form = Form.ONE
    certain: bool = True
    key: str = ""
    value_start: int = 0


OTHER_OBJECT = "another object"
EMPTY = Kind("an empty file", "nothing")

# A pattern for the first bytes, what people call such a file, and the word for its content.
_MAGIC = [
    (rb"\xef\xbb\xbf", "text that begins with a byte order mark (EF BB BF, UTF-8)", "byte order mark"),
    (
        rb"\xff\xfe(?:[^\0 ]\0|(?:(?!\0\0)..){1,200}?[ \t\n]\0)|\xfe\xff(?:\0[^\0 ]|(?:(?!\0\0)..){1,200}?\0[ \t\n])",
        "text that begins with a byte order mark (UTF-16)",
        "UTF-16",
    ),
    (rb"\x1f\x8b\x08", "a gzip-compressed file", "gzip"),
    (rb"\x1f\x9d", "a file compressed by compress (.Z)", "gzip"),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "a bzip2-compressed file", "bzip2"),
    (rb"\xfd7zXZ\0", "an xz-compressed file", "xz"),
    (rb"\x28\xb5\x2f\xfd", "a zstd-compressed file", "zstd"),
    (rb"\x04\x22\x4d\x18", "an lz4-compressed file", "lz4"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive of files", "packed"),
    (rb"PK\x03\x04.{26}[^\n]{0,200}/data\.pkl|\x80\x02\x8a\x0al\xfc\x9cF\xf9", "a PyTorch file", "PyTorch"),
    (rb"PK\x03\x04.{26}[^\n]{0,200}\.npy", "NumPy arrays (.npz)", "NumPy"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive of files", "packed"),
    (rb"(?=.{257}ustar[\0 ])[^\0\n]{1,100}[\0-7]", "a tar archive of files", "tar"),
    (rb"\x93NUMPY", "a NumPy array (.npy)", "NumPy"),
    (rb"\x80[\x02-\x05][\x80-\xff(\]\}c]", "a Python pickle", "pickle"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "HDF5"),
    (rb"RIFF.{4}WAVE|RIFX.{4}WAVE", "a WAV file", "recording"),
    (rb"(?:RF64|BW64).{4}WAVE", "a WAV file in the long form (RF64)", "recording"),
    (rb"RIFF.{4}AVI ", "an AVI file", "video"),
    (rb"RIFF.{4}(?:WEBP|RMID|sfbk)", "a RIFF file that is no WAV file", "recording"),
    (rb"riff\x2e\x91\xcf\x11", "a Wave64 file", "Wave64"),
    (rb"fLaC\0", "a FLAC file", "FLAC"),
    (rb"OggS\0.{20,60}OpusHead", "an Opus file", "Ogg"),
    (rb"OggS\0", "an Ogg file", "Ogg"),
    (rb"ID3[\x02-\x04]\0", "an MP3 file", "MP3"),
    (rb"NIST_1A\n", "a SPHERE file", "SPHERE"),
    (rb"FORM.{4}AIF[FC]", "an AIFF file", "AIFF"),
    (rb"\.snd\0|dns\.[^\0]\0", "an AU file", "AU"),
    (rb"caff\0", "a CAF file", "CAF"),
    (rb"\0\0\0.ftyp", "an MP4 or M4A file", "MP4"),
    (rb"\x1a\x45\xdf\xa3", "a WebM or Matroska file", "video"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA file", "WMA"),
    (rb"#!AMR(?:-WB)?\n", "an AMR file", "AMR"),
    (rb"ajkg[\1-\3]", "a Shorten file", "Shorten"),
    (rb"\x7fELF", "a compiled program (ELF)", "ELF"),
    (rb"%PDF-[0-9]", "a PDF", "PDF"),
    (rb"\x08[\x01-\x20]\x12[\x01-\x40](?:pytorch|onnx|tf2onnx|keras2onnx|skl2onnx)", "an ONNX network", "ONNX"),
    (rb"(?i:\s*<(?:!doctype html|\?xml)[\s>])", "a web page or XML", "web page"),
    (rb"version https://git-lfs\.github\.com/", "a pointer of Git LFS in place of the file itself", "Git LFS"),
    (rb"/annex/objects/|(?:\.\./)*\.git/annex/", "a pointer of git-annex in place of the file itself", "git-annex"),
    (rb"\xd6\xfd\xb2\x7e", "a transducer of OpenFst", "transducer"),
    (rb"\x74\x61\xb3\x7e", "a table of symbols in OpenFst's binary form", "symbols"),
]
_UNCERTAIN = [
    (rb"\xff[\xe2\xe3\xf2-\xf5\xfa-\xfd][\x10-\xfe]", "an MP3 file", "MP3"),
    (rb"\xff[\xf1\xf9][\x40-\xbf]", "an AAC file", "AAC"),
    (rb"(?i:\s*<(?:html|head)[\s>])", "a web page", "web page"),
    (rb"<eps>[ \t]+0\r?\n", "a table of symbols", "symbols"),
    (rb"\s*(?:\{\s*[\"}]|\[\s*[\[{\"])", "JSON", "JSON"),
    (
        rb"(?:\s*(?:#[^\n]*)?\n)*(?:input-node|output-node|component|component-node|dim-range-node) +[a-z-]+=",
        "configuration lines of a network",
        "configuration",
    ),
    (rb"(?:\s*(?:#[^\n]*)?\n)*(?:input|output|[a-z-]+-layer) +[a-z-]+=", "an xconfig file", "xconfig"),
]
_KINDS = [
    *((pattern, Kind(name, content)) for pattern, name, content in _MAGIC),
    *((pattern, Kind(name, content, certain=False)) for pattern, name, content in _UNCERTAIN),
]
_ANY_KIND = re.compile(b"|".join(b"(%s)" % pattern for pattern, _ in _KINDS), re.DOTALL)

# The token that an object starts with: what people call one, what they call several, the word for it.
_OBJECTS = {
    b"FM": ("a matrix", "matrices", "matrix"),
    b"DM": ("a matrix", "matrices", "matrix"),
    b"CM": ("a compressed matrix", "compressed matrices", "matrix"),
    b"CM2": ("a compressed matrix", "compressed matrices", "matrix"),
    b"CM3": ("a compressed matrix", "compressed matrices", "matrix"),
    b"SM": ("a sparse matrix", "sparse matrices", "matrix"),
    b"FV": ("a vector", "vectors", "vector"),
    b"DV": ("a vector", "vectors", "vector"),
    b"<Nnet3>": ("a network", "networks", "network"),
    b"<Nnet>": ("a network of Kaldi's nnet1 or nnet2", "networks of Kaldi's nnet1 or nnet2", "old network"),
    b"<TransitionModel>": (
        "a model that begins with transitions (a .mdl)",
        "models that begin with transitions",
        "transition model",
    ),
    b"<Topology>": ("a topology", "topologies", "topology"),
    b"ContextDependency": ("a tree", "trees", "tree"),
    b"<DiagGMM>": ("a mixture of Gaussians", "mixtures of Gaussians", "mixture"),
    b"<DIAGGMM>": ("a mixture of Gaussians", "mixtures of Gaussians", "mixture"),
    b"<FullGMM>": ("a mixture of Gaussians", "mixtures of Gaussians", "mixture"),
    b"<FULLGMM>": ("a mixture of Gaussians", "mixtures of Gaussians", "mixture"),
    b"<IvectorExtractor>": ("an iVector extractor", "iVector extractors", "iVector extractor"),
    b"<Plda>": ("a PLDA model", "PLDA models", "PLDA"),
    b"<LDAACCS>": ("statistics for LDA", "statistics for LDA", "LDA statistics"),
    b"<Nnet3Eg>": ("a training example", "training examples", "example"),
    b"<Nnet3ChainEg>": ("a chain training example", "chain training examples", "chain example"),
    b"<Nnet3DiscriminativeEg>": (
        "a discriminative training example",
        "discriminative training examples",
        "discriminative example",
    ),
    b"<Supervision>": ("a chain supervision", "chain supervisions", "supervision"),
}
_TOKEN = re.compile(rb"(<[A-Za-z][A-Za-z0-9]*>|[A-Z][A-Za-z0-9]+)[ \n]")
_KEY = re.compile(rb"([^\x00-\x20]+)[ \t]+")
_INTEGER = re.compile(rb"-?[0-9]+")
_BRACKETS = re.compile(rb"\[(?:[ \t]*(?:[-+.0-9]+(?:e[-+]?[0-9]+)?|-?nan|-?inf)(?![^ \t\r\n\]]))*[ \t]*(?:\]|\r?\n)")
_PLACE = re.compile(
    rb"\S+:[0-9]+(?:\[[0-9:,]+\])?|.*\||(?:\.{0,2}/)\S+|\S+\.(?:ark|wav|flac|sph|gz|mat|vec|fst)(?:\[[0-9:,]+\])?"
)
_BINARY = b"\0B"
_LARGEST_ID = 1 << 24  # of a pdf or transition; as the bits of a float these are all but 0
_WEIGHTS = range(0x2F000000, 0x50000000)  # the bits of a usual float


def describe(first_bytes: bytes) -> Kind | None:
    """The kind of file that begins with these bytes (the first 512 of it are enough); ``None`` if it is not known."""
    if not first_bytes:
        return EMPTY
    match = _ANY_KIND.match(first_bytes)
    if match is not None:
        kind = _KINDS[int(match.lastindex or 1) - 1][1]
        return _transducer(first_bytes) if kind.content == "transducer" else kind
    return _object(first_bytes) or _keyed(first_bytes)


def _transducer(data: bytes) -> Kind:
    """Of the header: 4 bytes, the length and name of the form, the length and name of the arcs' type."""
    place = 8 + int.from_bytes(data[4:8], "little")
    arcs = data[place + 4 : place + 4 + int.from_bytes(data[place : place + 4], "little")]
    if arcs.startswith(b"compactlattice") or arcs.startswith(b"lattice"):
        return Kind("a lattice", "lattice")
    return Kind("a transducer (FST)", "transducer")


def _object(data: bytes) -> Kind | None:
    """An object of Kaldi's by itself, binary or text."""
    binary = data.startswith(_BINARY)
    token = _TOKEN.match(data, 2 if binary else len(data) - len(data.lstrip()))
    if token is not None:
        names = _OBJECTS.get(token[1])
        if names is not None and (binary or len(token[1]) > 3):
            return Kind(names[0], names[2], certain=binary)  # in text it may be a key
        if binary:
            return Kind(f"an object of Kaldi's that begins with {token[1].decode()}", OTHER_OBJECT)
    if binary:
        return _binary_numbers(data)
    return _text_brackets(data.lstrip())


def _binary_numbers(data: bytes) -> Kind | None:
    """Integers that have their size before them: of an alignment, or of a posterior.

    The fourth is a pdf's weight if the first frame of a posterior has any pdf.
    """
    numbers = [int.from_bytes(data[at : at + 4], "little", signed=True) for at in range(3, len(data) - 3, 5)]
    marks = data[2::5][: len(numbers)]
    if not marks or marks[0] != 4:
        return None
    if len(numbers) > 3 and marks[:4] == b"\4\4\4\4" and numbers[1] > 0:
        if numbers[3] in _WEIGHTS:
            return Kind("a posterior", "posterior")
        if 0 < numbers[3] < _LARGEST_ID:
            return Kind("integers", "integers")
    return Kind("integers or a posterior", "numbers")


def _text_brackets(data: bytes) -> Kind | None:
    """A matrix, a vector or a posterior in text; not known if a long first line does not tell."""
    match = _BRACKETS.match(data)
    if match is None:
        return None
    if not match[0].endswith(b"]"):
        return Kind("a matrix", "matrix", certain=False)
    if b"[" in data[match.end() :].split(b"\n", 1)[0]:
        return Kind("a posterior", "posterior", certain=False)
    return Kind("a vector", "vector", certain=False)


def _keyed(data: bytes) -> Kind | None:
    """An archive, or a script."""
    match = _KEY.match(data)
    if match is None:
        return None
    key, rest = match[1], data[match.end() :]
    inner = _value(rest)
    if inner is not None:
        name = f"an archive of {_several(inner)}"
        certain = inner.certain and not rest.startswith(b"<")  # a transcript may have such a word
        return replace(inner, name=name, form=Form.ARCHIVE, certain=certain, key=_shown(key), value_start=len(key) + 1)
    line, end, _ = rest.partition(b"\n")
    line = line.strip()
    if end and _PLACE.fullmatch(line) and b"\0" not in line:
        return Kind("a script", "places", Form.SCRIPT, False, _shown(key))
    words = line.split()
    if words and all(_INTEGER.fullmatch(word) for word in (words if end else words[:-1] or words)):
        return Kind("an archive of integers in text", "integers", Form.ARCHIVE, False, _shown(key), len(key) + 1)
    return None


def _value(data: bytes) -> Kind | None:
    if data.startswith(_BINARY) or data[:1] in (b"<", b"[", b"\r", b"\n"):
        return _object(data)
    kind = describe(data) if data[:1] in (b"\xd6", b"R") else None
    return kind if kind is not None and kind.content in ("transducer", "lattice", "recording") else None


def _several(kind: Kind) -> str:
    for one, several, _ in _OBJECTS.values():
        if one == kind.name:
            return several
    return {
        "a posterior": "posteriors",
        "integers": "integers",
        "integers or a posterior": "integers or posteriors",
        "a WAV file": "WAV files",
        "a lattice": "lattices",
        "a transducer (FST)": "transducers (FST)",
    }.get(kind.name, kind.name.removeprefix("an ").replace("object", "objects").replace("begins", "begin"))


def _shown(key: bytes) -> str:
    return decode(key)

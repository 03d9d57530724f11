"""Tables: values under keys, in archives, in scripts that say where each value is, or in HDF5 files.

A *rspecifier* names a table to read: ``ark:RXFILENAME`` an archive, ``scp:RXFILENAME`` a script of lines ``key
rxfilename`` (which may end in a range, ``feats.ark:1234[0:9,2:5]``, both ends included), ``hdf5:FILE`` an HDF5 file
with one data set a key. Options stand before the colon, separated by commas: ``p`` (permissive: pass over what cannot
be read), ``s`` (the keys are sorted), ``cs`` (keys are asked for in sorted order), ``o`` (each key is asked for once),
``bg`` (read ahead in the background); with ``s``, ``cs`` and ``o`` random access to an archive needs less memory.

A *wspecifier* names a table to write: ``ark:WXFILENAME``, ``scp:RXFILENAME`` (the script exists and says where each
value goes), ``ark,scp:ARCHIVE,SCRIPT`` (both are written), ``hdf5:FILE``. Options: ``t`` text, ``b`` binary, ``f`` pass
each value on at once, ``p`` (pass over keys that the script lacks).

Source: Kaldi src/util/kaldi-table.cc and kaldi-table-inl.h; ``hdf5:`` after ESPnet.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from nnet3py import log
from nnet3py.errors import UserError, reason
from nnet3py.tables.streams import Sink, Source, open_input, open_output, split_offset
from nnet3py.text.expectation import Expected
from nnet3py.text.file_kind import Form, describe
from nnet3py.text.lines import BLANKS, decode, encode

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class HolderLike(Protocol[T]):
    """What a table needs to know of its values' type; :class:`nnet3py.tables.holders.Holder` says more."""

    name: str

    def read(self, source: Source) -> T:
        """The next value."""

    def write(self, sink: Sink, value: T, binary: bool) -> None:
        """Write a value."""


_RANGE = re.compile(r"([^\[]+)\[([^\[]+)\]")
_READ_OPTIONS = {"b", "t", "o", "no", "p", "np", "s", "ns", "cs", "ncs", "bg"}
_LARGEST_UNSTORED = 1 << 26  # bytes of an HDF5 data set that need not be in the file: compressed, or all zero
_LARGEST_COMPRESSION = 1100  # a little more than deflate can do
_WRITE_OPTIONS = {"b", "t", "f", "nf", "p"}


@dataclass(frozen=True)
class Specifier:
    """A rspecifier or wspecifier taken apart.

    Attributes:
        kind: ``ark``, ``scp``, ``hdf5`` or ``ark,scp``.
        path: what stands after the colon; of ``ark,scp`` the archive.
        script: of ``ark,scp`` the script.
        options: the options given, ``{"t", "p"}``.
    """

    kind: str
    path: str
    script: str = ""
    options: frozenset[str] = field(default_factory=frozenset)


def _split_specifier(text: str, known: set[str], what: str, example: str) -> tuple[list[str], set[str], str]:
    before, colon, path = text.partition(":")
    words = [word.strip(BLANKS) for word in before.split(",")]
    kinds = [word for word in words if word in ("ark", "scp", "hdf5")]
    options = {word for word in words if word not in ("ark", "scp", "hdf5")}
    if not colon or not kinds or not options <= known:
        unknown = f" ({', '.join(sorted(options - known))} is not an option)" if kinds and options - known else ""
        raise UserError(f"Expected {what} such as {example}, found {text!r}{unknown}.")
    if path != path.rstrip(BLANKS):
        raise UserError(f"Expected {what} without blanks at its end, found {text!r}.")
    return kinds, options, path


def parse_rspecifier(rspecifier: str) -> Specifier:
    """Take a rspecifier apart.

    Raises:
        UserError: it is not one.
    """
    try:
        return _parsed_rspecifier(rspecifier)
    except UserError as problem:
        raise UserError(f"{problem}{_prefix_for(rspecifier)}") from problem


def _prefix_for(name: str) -> str:
    """What should stand before a file's name that was given in place of a rspecifier."""
    if not os.path.isfile(name):
        return ""
    with open_input(name) as source:
        kind = describe(source.first_piece())
    if kind is None or kind.form is Form.ONE:
        return f" The file is {kind.name}." if kind is not None else " Put ark: or scp: before the file's name."
    return f" The file is {kind.name}: write {'scp' if kind.form is Form.SCRIPT else 'ark'}:{name}."


def _parsed_rspecifier(rspecifier: str) -> Specifier:
    kinds, options, path = _split_specifier(rspecifier, _READ_OPTIONS, "a table to read", "ark:FILE or scp:FILE")
    if len(kinds) != 1:
        raise UserError(f"Expected a table to read of one kind, ark:, scp: or hdf5:, found {rspecifier!r}.")
    return Specifier(kinds[0], path, options=frozenset(options))


def parse_wspecifier(wspecifier: str) -> Specifier:
    """Take a wspecifier apart.

    Raises:
        UserError: it is not one.
    """
    kinds, options, path = _split_specifier(
        wspecifier, _WRITE_OPTIONS, "a table to write", "ark:FILE or ark,scp:ARCHIVE,SCRIPT"
    )
    if kinds == ["ark", "scp"]:
        archive, comma, script = path.partition(",")
        if not comma:
            raise UserError(f"Expected ark,scp:ARCHIVE,SCRIPT, found one file in {wspecifier!r}.")
        return Specifier("ark,scp", archive, script, frozenset(options))
    if len(kinds) != 1:
        raise UserError(f"Expected ark:, scp:, ark,scp: or hdf5:, found {wspecifier!r}.")
    return Specifier(kinds[0], path, options=frozenset(options))


def is_rspecifier(text: str) -> bool:
    """Whether a command-line argument names a table to read, and not a single file."""
    try:
        _parsed_rspecifier(text)
    except UserError:
        return False
    return True


def is_wspecifier(text: str) -> bool:
    """Whether a command-line argument names a table to write, and not a single file."""
    try:
        parse_wspecifier(text)
    except UserError:
        return False
    return True


def _encode_key(key: str) -> bytes:
    data = encode(key)
    if data.split() != [data]:
        raise UserError(f"Expected a key without white space, found {key!r}.")
    return data


# ---------------------------------------------------------------------------------------------------- archives, scripts


def _read_key(source: Source) -> str | None:
    """The next key of an archive and the blank after it; ``None`` at the archive's end."""
    word = source.read_word()
    if not word:
        return None
    following = source.peek(1)
    if following in (b" ", b"\t"):
        source.read(1)
    elif following != b"\n" and source.peek(2) != b"\r\n":  # a line end stays: an empty value in text
        found = "the end of the data" if not following else repr(following)
        raise source.error(f"expected a blank and a value after the key {decode(word[:60])!r}, found {found}.")
    return decode(word)


def _read_value(source: Source, key: str, holder: HolderLike[T]) -> T:
    try:
        return holder.read(source)
    except UserError as problem:
        raise UserError(f"Cannot read the value of key {key!r}: {problem}") from problem


def _archive(specifier: Specifier, holder: HolderLike[T]) -> Generator[tuple[str, T], None, None]:
    permissive = "p" in specifier.options
    read_buffered = getattr(holder, "read_buffered", None)
    source = open_input(specifier.path, _expected_archive(holder))
    try:
        with source:
            source.refuse_misfit()
            first = True
            while (key := _read_key(source)) is not None:
                if not first:
                    source.expected = None  # a value was where it should be, and a key after it
                value = _read_value(source, key, holder)
                first = False
                yield key, value
                if read_buffered is not None:  # what follows is probably of the same kind, and many of it are at hand
                    for word, value in read_buffered(source):
                        yield decode(word), value
    except UserError as problem:
        if not permissive:
            raise
        log.warning(f"{problem} The rest of the archive is passed over (option p).")


def _contents(holder: HolderLike[Any]) -> frozenset[str]:
    """What a file may have in it for this holder to read; empty if that is not known."""
    contents: frozenset[str] = getattr(holder, "contents", frozenset())
    return contents


def _expected_archive(holder: HolderLike[Any]) -> Expected:
    return Expected(f"a table of {holder.name}", _contents(holder), Form.ARCHIVE)


def _expected_value(holder: HolderLike[Any]) -> Expected:
    """What a line of a script should point at."""
    return Expected(
        f"a value of a table of {holder.name}",
        _contents(holder),
        advice={
            "archive": "a script says at which byte of it a value starts, {name}:{start} for the first, as ark,scp: "
            "writes it (ark:{name} is the whole)",
        },
    )


_SCRIPT = Expected("a script (lines of a key and where its value is)", frozenset({"places"}), Form.SCRIPT)


def read_script(rxfilename: str, *, to_write: bool = False) -> Iterator[tuple[str, str]]:
    """The lines of a script, ``key rxfilename``; with ``to_write`` the files that it names need not exist.

    Raises:
        UserError: a line has no value; it is named. Or the file is not a script.
    """
    with open_input(rxfilename, _SCRIPT) as source:
        source.refuse_misfit()
        if not to_write:
            _refuse_archive_in_text(source)
        number = 0
        while line := source.readline():
            number += 1
            words = line.split(None, 1)
            if len(words) < 2:
                found = f"only {decode(words[0])!r}" if words else "an empty line"
                raise UserError(
                    f"{source.name}, line {number}: expected a key and what it stands for, separated by a blank, "
                    f"found {found}."
                )
            if b"\0" in line:
                raise UserError(f"{source.name}, line {number}: expected lines of text, found binary data.")
            yield decode(words[0]), decode(words[1].rstrip())


def _refuse_archive_in_text(source: Source) -> None:
    """Keys and values in text are lines as of a script, but no file is called as such a value is."""
    first = source.first_piece()
    kind = describe(first)
    if kind is None or kind.form is not Form.ARCHIVE:
        return
    words = first.split(b"\n", 1)[0].split(None, 1)
    if len(words) == 2 and (words[1].rstrip().endswith(b"|") or os.path.lexists(words[1].rstrip())):
        return
    source.refuse_misfit(even_if_uncertain=True)


class _ScriptValues(Generic[T]):
    """Reads what script lines point at; the archive of the line before stays open, and so does its last value."""

    def __init__(self, holder: HolderLike[T]) -> None:
        self._holder = holder
        self._expected = _expected_value(holder)
        self._source: Source | None = None
        self._path = ""
        self._whole: tuple[str, T] | None = None  # the rxfilename and value that ranges are taken of

    def read(self, key: str, place: str) -> T:
        try:
            match = _RANGE.fullmatch(place)
            if match is None:
                return self._read_whole(place)
            if self._whole is None or self._whole[0] != match[1]:
                self._whole = (match[1], self._read_whole(match[1]))
            extract = getattr(self._holder, "extract_range", None)
            if extract is None:
                raise UserError(f"A range such as [{match[2]}] has no meaning for a table of {self._holder.name}.")
            part: T = extract(self._whole[1], match[2])
            return part
        except UserError as problem:
            raise UserError(f"Cannot read the value of key {key!r}: {problem}") from problem

    def _read_whole(self, place: str) -> T:
        if place in ("", "-") or place.endswith("|"):
            with open_input(place, self._expected) as source:
                return self._holder.read(source)
        path, offset = split_offset(place)
        if self._source is None or self._path != path:
            self.close()
            self._source, self._path = open_input(place, self._expected), path
        else:
            self._source.seek(offset)
        try:
            return self._holder.read(self._source)
        except UserError as problem:
            if better := self._source.misfit(str(problem)):
                raise better from problem
            raise

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


def _script(specifier: Specifier, holder: HolderLike[T]) -> Generator[tuple[str, T], None, None]:
    values = _ScriptValues(holder)
    try:
        for key, place in read_script(specifier.path):
            try:
                value = values.read(key, place)
            except UserError as problem:
                if "p" not in specifier.options:
                    raise
                log.warning(f"{problem} The key is passed over (option p).")
                values.close()
                continue
            yield key, value
    finally:
        values.close()


# ----------------------------------------------------------------------------------------------------------------- HDF5


_HDF5_TABLE = Expected("a table in HDF5", frozenset({"HDF5"}), advice={"archive": "write ark:{name}"})


def _open_hdf5(path: str) -> Any:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        if not os.path.isfile(path):
            raise UserError(f"Cannot open {path} to read: {reason(problem)}.") from problem
        with open_input(path, _HDF5_TABLE):
            raise UserError(f"Cannot open {path} to read: it is not a complete HDF5 file.") from problem
    layout = str(file.attrs.get("format", ""))
    if layout.startswith("nnet3py-"):
        file.close()
        raise UserError(
            f"{path}: expected {_HDF5_TABLE.what}, which has a data set a key, found another HDF5 file ({layout})."
        )
    return file


def _hdf5_value(data_set: Any, key: str, path: str, holder: HolderLike[T]) -> T:
    convert: Callable[[Any], T] | None = getattr(holder, "from_dataset", None)
    try:
        if convert is None:
            raise UserError(f"An HDF5 file cannot hold a table of {holder.name}; use an archive.")
        _check_storage(data_set)
        return convert(data_set[()])
    except (UserError, OSError) as problem:
        raise UserError(f"Cannot read the value of key {key!r} in {path}: {problem}") from problem


def _check_storage(data_set: Any) -> None:
    """Refuse data in another file, and sizes that are only claimed, before memory is taken for them."""
    if data_set.external or data_set.is_virtual:
        raise UserError("Expected data in the file itself, found a reference to another file.")
    stored = data_set.id.get_storage_size()
    if data_set.nbytes > _LARGEST_UNSTORED and data_set.nbytes > _LARGEST_COMPRESSION * stored:
        raise UserError(f"Expected {data_set.nbytes} bytes {data_set.shape} in the file, found {stored}.")


def _hdf5_key(name: str | bytes) -> str:
    """What h5py calls a data set: bytes where the name is not UTF-8."""
    return decode(name) if isinstance(name, bytes) else name


def _has_hard_links(file: Any, key: bytes) -> bool:
    """Whether the way to a data set stays in the file."""
    import h5py

    group = file
    for part in key.split(b"/"):
        if not isinstance(group, h5py.Group) or not _is_hard_link(group, part):
            return False
        group = group[part]
    return True


def _is_hard_link(group: Any, name: bytes) -> bool:
    """Whether the name is that of something in the file itself; asked at h5py's lower level, for names not in UTF-8."""
    import h5py

    try:
        return bool(group.id.links.get_info(name).type == h5py.h5l.TYPE_HARD)
    except (KeyError, RuntimeError, ValueError):  # there is none
        return False


def _hdf5_data_sets(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    import h5py

    for name in group:
        if not _is_hard_link(group, encode(_hdf5_key(name))):
            continue  # a link out of the file, or one that may go round in circles
        member = group[name]
        if isinstance(member, h5py.Dataset):
            yield prefix + _hdf5_key(name), member
        elif isinstance(member, h5py.Group) and prefix.count("/") < 32:
            yield from _hdf5_data_sets(member, f"{prefix}{_hdf5_key(name)}/")


def _hdf5(specifier: Specifier, holder: HolderLike[T]) -> Generator[tuple[str, T], None, None]:
    with _open_hdf5(specifier.path) as file:
        for key, data_set in _hdf5_data_sets(file):
            try:
                value = _hdf5_value(data_set, key, specifier.path, holder)
            except UserError as problem:
                if "p" not in specifier.options:
                    raise
                log.warning(f"{problem} The key is passed over (option p).")
                continue
            yield key, value


# -------------------------------------------------------------------------------------------------------------- reading


def _pairs(specifier: Specifier, holder: HolderLike[T]) -> Generator[tuple[str, T], None, None]:
    readers = {"ark": _archive, "scp": _script, "hdf5": _hdf5}
    return readers[specifier.kind](specifier, holder)


def _in_background(pairs: Generator[tuple[str, T], None, None]) -> Generator[tuple[str, T], None, None]:
    """The same pairs, the next one read by a thread while the present one is in use."""
    ready: queue.Queue[tuple[tuple[str, T] | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(pair: tuple[str, T] | None, problem: BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((pair, problem), timeout=0.1)
                return

    def read() -> None:
        try:
            for pair in pairs:
                put(pair, None)
                if stop.is_set():
                    break
            pairs.close()
            put(None, None)
        except BaseException as problem:  # handed to the thread that reads the table
            put(None, problem)

    thread = threading.Thread(target=read, name="table reader", daemon=True)
    thread.start()
    try:
        while True:
            pair, problem = ready.get()
            if problem is not None:
                raise problem
            if pair is None:
                return
            yield pair
    finally:
        stop.set()
        thread.join()


class SequentialReader(Generic[T]):
    """The (key, value) pairs of a table in their order: an iterable, and a context manager.

    Raises:
        UserError: while reading, what is missing or corrupt; the key and the byte are named.
    """

    def __init__(self, rspecifier: str, holder: HolderLike[T]) -> None:
        specifier = parse_rspecifier(rspecifier)
        self._pairs = _pairs(specifier, holder)
        if "bg" in specifier.options:
            self._pairs = _in_background(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return self._pairs

    def __enter__(self) -> SequentialReader[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(UserError):
            self.close()

    def close(self) -> None:
        """Stop reading."""
        self._pairs.close()


class _Values(Protocol[T_co]):
    """A table's values by their keys."""

    def find(self, key: str) -> tuple[T_co] | None:
        """The value, wrapped because it may itself be ``None``; or nothing."""

    def close(self) -> None:
        """Let go of files."""


class _UnsortedArchive(Generic[T]):
    """Reads on until the key asked for comes, and keeps what it passed."""

    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        self._pairs = _archive(specifier, holder)
        self._path = specifier.path
        self._once = "o" in specifier.options
        self._seen: dict[str, T] = {}
        self._current: tuple[str, T] | None = None  # with option o: `key in table` and `table[key]` count as one

    def find(self, key: str) -> tuple[T] | None:
        if self._current is not None and self._current[0] == key:
            return (self._current[1],)
        while key not in self._seen:
            pair = next(self._pairs, None)
            if pair is None:
                return None
            if pair[0] in self._seen:
                raise UserError(f"The key {pair[0]!r} is twice in the archive {self._path}.")
            self._seen[pair[0]] = pair[1]
        if self._once:
            self._current = (key, self._seen.pop(key))
            return (self._current[1],)
        return (self._seen[key],)

    def close(self) -> None:
        self._pairs.close()


class _SortedArchive(Generic[T]):
    """Reads on until a key at or after the one asked for comes; with option cs keeps only that one."""

    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        self._pairs = _archive(specifier, holder)
        self._path = specifier.path
        self._called_sorted = "cs" in specifier.options
        self._once = "o" in specifier.options
        self._seen: dict[str, T] = {}
        self._last: str | None = None
        self._asked: str | None = None

    def find(self, key: str) -> tuple[T] | None:
        if self._called_sorted:
            self._check_called_sorted(key)
        elif self._once and self._asked not in (None, key):
            self._seen.pop(str(self._asked), None)
        self._asked = key
        while self._last is None or encode(self._last) < encode(key):
            pair = next(self._pairs, None)
            if pair is None:
                break
            self._check_sorted(pair[0])
            self._last = pair[0]
            if self._called_sorted:
                self._seen.clear()
            self._seen[pair[0]] = pair[1]
        return (self._seen[key],) if key in self._seen else None

    def _check_called_sorted(self, key: str) -> None:
        if self._asked is not None and encode(key) < encode(self._asked):
            raise UserError(
                f"The key {key!r} was asked for after {self._asked!r} in the archive {self._path}, which was opened "
                "for keys in sorted order (option cs): sort what asks, or leave out cs."
            )

    def _check_sorted(self, key: str) -> None:
        if self._last is not None and encode(key) <= encode(self._last):
            raise UserError(
                f"The key {key!r} comes after {self._last!r} in the archive {self._path}, which was opened as sorted "
                "(option s): sort it with LC_ALL=C, or leave out s."
            )

    def close(self) -> None:
        self._pairs.close()


class _ScriptTable(Generic[T]):
    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        self._values = _ScriptValues(holder)
        self._permissive = "p" in specifier.options
        self._current: tuple[str, T] | None = None
        self._absent: set[str] = set()
        self.places: dict[str, str] = {}
        for number, (key, place) in enumerate(read_script(specifier.path), 1):
            if key in self.places:
                raise UserError(f"{specifier.path}, line {number}: the key {key!r} is there twice.")
            self.places[key] = place

    def find(self, key: str) -> tuple[T] | None:
        if key not in self.places or key in self._absent:
            return None
        if self._current is None or self._current[0] != key:
            try:
                self._current = (key, self._values.read(key, self.places[key]))
            except UserError as problem:
                self._values.close()
                if not self._permissive:
                    raise
                log.warning(f"{problem} The key counts as absent (option p).")
                self._absent.add(key)
                return None
        return (self._current[1],)

    def close(self) -> None:
        self._values.close()


class _Hdf5Table(Generic[T]):
    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        self._path = specifier.path
        self._holder = holder
        self._permissive = "p" in specifier.options
        self._file = _open_hdf5(specifier.path)

    def find(self, key: str) -> tuple[T] | None:
        import h5py

        try:
            name = encode(key)
            if b"\0" in name:
                return None
            member = self._file[name] if _has_hard_links(self._file, name) else None
        except (ValueError, KeyError, OSError):  # names that HDF5 does not have
            return None
        if not isinstance(member, h5py.Dataset):
            return None
        try:
            return (_hdf5_value(member, key, self._path, self._holder),)
        except UserError as problem:
            if not self._permissive:
                raise
            log.warning(f"{problem} The key counts as absent (option p).")
            return None

    def close(self) -> None:
        self._file.close()


def _values(specifier: Specifier, holder: HolderLike[T]) -> _Values[T]:
    if specifier.kind == "scp":
        return _ScriptTable(specifier, holder)
    if specifier.kind == "hdf5":
        return _Hdf5Table(specifier, holder)
    if "s" in specifier.options:
        return _SortedArchive(specifier, holder)
    return _UnsortedArchive(specifier, holder)


class RandomAccessReader(Generic[T]):
    """A table's values by their keys: ``key in table``, ``table[key]``; a context manager.

    An archive is read only as far as keys are asked for, and what was passed is kept in memory, unless the options
    ``s,cs`` or ``o`` say that it will not be asked for again.
    """

    def __init__(self, rspecifier: str, holder: HolderLike[T]) -> None:
        self._rspecifier = rspecifier
        self._values = _values(parse_rspecifier(rspecifier), holder)

    def __contains__(self, key: str) -> bool:
        # A script answers without reading the value, as in Kaldi, unless option p makes the answer depend on it.
        if isinstance(self._values, _ScriptTable) and not self._values._permissive:
            return key in self._values.places
        return self._values.find(key) is not None

    def __getitem__(self, key: str) -> T:
        """The value.

        Raises:
            UserError: the table does not have the key, or the value cannot be read.
        """
        found = self._values.find(key)
        if found is None:
            raise UserError(f"The table {self._rspecifier} has no key {key!r}.")
        return found[0]

    def __enter__(self) -> RandomAccessReader[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(UserError):
            self.close()

    def close(self) -> None:
        """Let go of files."""
        self._values.close()


class RandomAccessReaderMapped(Generic[T]):
    """A table whose keys are, say, speakers, asked for by utterance: ``table[utterance]`` is the speaker's value.

    Without a map (an empty rspecifier) keys stand for themselves.
    """

    def __init__(self, rspecifier: str, utt2spk_rspecifier: str, holder: HolderLike[T]) -> None:
        from nnet3py.tables.holders import TOKEN

        self._map = _values(parse_rspecifier(utt2spk_rspecifier), TOKEN) if utt2spk_rspecifier else None
        self._map_name = utt2spk_rspecifier
        self._table = RandomAccessReader(rspecifier, holder)

    def _mapped(self, utterance: str) -> str | None:
        if self._map is None:
            return utterance
        found = self._map.find(utterance)
        return None if found is None else found[0]

    def __contains__(self, utterance: str) -> bool:
        key = self._mapped(utterance)
        return key is not None and key in self._table

    def __getitem__(self, utterance: str) -> T:
        """The value of what the utterance is mapped to.

        Raises:
            UserError: the map lacks the utterance, or the table what it is mapped to.
        """
        key = self._mapped(utterance)
        if key is None:
            raise UserError(f"The map {self._map_name} has no key {utterance!r}.")
        return self._table[key]

    def __enter__(self) -> RandomAccessReaderMapped[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files."""
        for table in (self._map, self._table):
            if table is not None:
                with contextlib.suppress(UserError):
                    table.close()


# -------------------------------------------------------------------------------------------------------------- writing


class _Destination(Protocol[T_contra]):
    """Where a table's values go."""

    def write(self, key: str, value: T_contra) -> None:
        """Write one value."""

    def prepare(self) -> None:
        """Bring everything to the disk, for nothing more is written; files still have their temporary names."""

    def close(self) -> None:
        """Complete the files."""

    def discard(self) -> None:
        """Throw away what was written."""


class _ArchiveWriter(Generic[T]):
    """An archive, and the script that points into it if one is wanted."""

    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        self._holder = holder
        self._binary = _is_binary(specifier)
        self._encode: Callable[[T], bytes] | None = getattr(holder, "encode", None) if self._binary else None
        self._flush = "f" in specifier.options
        self._archive_name = specifier.path
        self._archive = open_output(specifier.path)
        self._script: Sink | None = None
        if specifier.script:
            try:
                if not self._archive.is_file:
                    raise UserError(
                        f"Cannot write a script that points into {self._archive.name}: give ark,scp: a file as archive."
                    )
                self._script = open_output(specifier.script)
            except BaseException:
                self._archive.discard()
                raise

    def write(self, key: str, value: T) -> None:
        word = _encode_key(key)
        place = self._archive.tell() + len(word) + 1
        if self._encode is not None:
            self._archive.write(b"%s %s" % (word, self._encode(value)))
        else:
            self._archive.write(word + b" ")
            self._holder.write(self._archive, value, self._binary)
        if self._script is not None:
            name = encode(self._archive_name)
            self._script.write(b"%s %s:%d\n" % (word, name, place))
        if self._flush:
            self._archive.flush()

    def prepare(self) -> None:
        try:
            self._archive.prepare()
            if self._script is not None:
                self._script.prepare()
        except BaseException:
            self.discard()
            raise

    def close(self) -> None:
        self.prepare()
        self._archive.close()
        if self._script is not None:
            self._script.close()

    def discard(self) -> None:
        self._archive.discard()
        if self._script is not None:
            self._script.discard()


class _ScriptWriter(Generic[T]):
    """Each value to the file that a script names for its key."""

    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        self._holder = holder
        self._binary = _is_binary(specifier)
        self._permissive = "p" in specifier.options
        self._path = specifier.path
        self._places = dict(read_script(specifier.path, to_write=True))

    def write(self, key: str, value: T) -> None:
        place = self._places.get(key)
        if place is None:
            if self._permissive:
                return
            raise UserError(f"The script {self._path} does not say where to write the key {key!r}.")
        with open_output(place) as sink:
            self._holder.write(sink, value, self._binary)

    def prepare(self) -> None:
        pass

    def close(self) -> None:
        pass

    def discard(self) -> None:
        pass


class _Hdf5Writer(Generic[T]):
    def __init__(self, specifier: Specifier, holder: HolderLike[T]) -> None:
        import h5py

        self._holder = holder
        self._path = specifier.path
        self._sink = open_output(specifier.path)
        if not self._sink.is_file:
            self._sink.discard()
            raise UserError(f"Cannot write {specifier.path}: an HDF5 table must be a file.")
        assert self._sink.temporary is not None
        self._file = h5py.File(self._sink.temporary, "w", track_order=True)

    def write(self, key: str, value: T) -> None:
        name = _encode_key(key)
        convert: Callable[[T], Any] | None = getattr(self._holder, "to_dataset", None)
        if convert is None:
            raise UserError(f"An HDF5 file cannot hold a table of {self._holder.name}; use an archive.")
        if key.startswith("/") or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
            raise UserError(f"The key {key!r} cannot be the name of an HDF5 data set; use an archive.")
        data = convert(value)
        try:
            self._file.create_dataset(name, data=data, track_order=False)
        except (ValueError, OSError, TypeError) as problem:
            raise UserError(f"Cannot write the key {key!r} to {self._path}: {problem}") from problem

    def prepare(self) -> None:
        try:
            self._file.close()
        except (OSError, RuntimeError) as problem:
            self._sink.discard()
            raise UserError(f"Cannot write {self._path}: {reason(problem)}.") from problem
        self._sink.prepare()

    def close(self) -> None:
        self.prepare()
        self._sink.close()

    def discard(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        self._sink.discard()


def _is_binary(specifier: Specifier) -> bool:
    return "t" not in specifier.options


class TableWriter(Generic[T]):
    """Writes a table; a context manager.

    Leaving it without an exception completes the files, which only then appear under their names; with one, they are
    thrown away.
    """

    def __init__(self, wspecifier: str, holder: HolderLike[T]) -> None:
        specifier = parse_wspecifier(wspecifier)
        self._destination: _Destination[T]
        if specifier.kind == "scp":
            self._destination = _ScriptWriter(specifier, holder)
        elif specifier.kind == "hdf5":
            self._destination = _Hdf5Writer(specifier, holder)
        else:
            self._destination = _ArchiveWriter(specifier, holder)
        self._open = True

    def write(self, key: str, value: T) -> None:
        """Append a value under its key.

        Raises:
            UserError: the key has white space, or the value cannot be written.
        """
        self._destination.write(key, value)

    def __enter__(self) -> TableWriter[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._open = False
            self._destination.discard()

    def prepare(self) -> None:
        """Let go of the open files after the last value; they appear under their names when this is closed.

        Raises:
            UserError: the disk is full.
        """
        if self._open:
            self._destination.prepare()

    def close(self) -> None:
        """Complete the files.

        Raises:
            UserError: the disk is full, or a command that reads the archive failed.
        """
        if self._open:
            self._open = False
            self._destination.close()

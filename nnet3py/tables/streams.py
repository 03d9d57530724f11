"""Extended file names and the byte streams behind them.

A *rxfilename* names something to read: ``-`` (or nothing) is standard input, ``command |`` what a shell command prints,
``file:1234`` a file from byte 1234 on, anything else a file. A *wxfilename* names something to write: ``-`` is standard
output, ``| command`` the input of a shell command, anything else a file.

A file is written under a temporary name beside its target and renamed when it is complete, so that a reader never sees
half of it and a failure leaves what was there before. A stream is read in pieces, so that a length that a corrupt file
claims costs no more memory than the file has bytes.

Source of the forms: Kaldi src/util/kaldi-io.cc, ``ClassifyRxfilename`` and ``ClassifyWxfilename``.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import temporary_files
from nnet3py.errors import UserError, reason
from nnet3py.text.expectation import Expected, Origin, certain_misfit, misfit
from nnet3py.text.file_kind import FIRST_BYTES
from nnet3py.text.lines import BLANKS

_FIRST_PIECE = 1 << 14
_LARGEST_PIECE = 1 << 20
_LONGEST_WORD = 1 << 20
_LONGEST_LINE = 1 << 28
_WORD = re.compile(rb"[ \t\n\r\f\v]*([^ \t\n\r\f\v]+)(?=[ \t\n\r\f\v])")
_SPACE = re.compile(rb"[ \t\n\r\f\v]*")
_OFFSET = re.compile(r"(.+):([0-9]+)", re.DOTALL)
_STANDARD_INPUT = "standard input"
_TABLE = re.compile(r"(?:[a-z]+, ?)*(?:ark|scp)(?:, ?[a-z]+)*:")


def printable(name: str) -> str:
    """A file name for a message: the standard streams by their names, other names as they are."""
    return {"": _STANDARD_INPUT, "-": _STANDARD_INPUT}.get(name, name)


class Source:
    """Bytes read in order from a file, a pipe or standard input; a context manager.

    If a :class:`UserError` leaves it and the first bytes are those of another kind of file than expected, an error
    that says so takes its place.

    Attributes:
        name: what messages call it.
        expected: what its reader expects; ``None`` once its beginning has turned out to be that.
    """

    def __init__(
        self,
        raw: IO[bytes],
        name: str,
        *,
        start: int = 0,
        process: subprocess.Popen[bytes] | None = None,
        expected: Expected | None = None,
    ) -> None:
        """Read from ``raw``, an unbuffered binary file that stands at byte ``start``."""
        self.name = name
        self.expected = expected
        self._raw = raw
        self._process = process
        self._buffer = b""
        self._position = 0  # in the buffer
        self._base = start  # the buffer's first byte, counted from the start of the file
        self._piece = _FIRST_PIECE
        self._ended = False
        self._closed = False
        self._failed = False  # the command did
        self._size = _regular_file_size(raw)
        self._start = 0 if self._size is None else os.lseek(raw.fileno(), 0, os.SEEK_CUR)  # where reading began
        self._first = b""  # of a pipe, which cannot be looked at again

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        better = self.misfit(str(problem)) if isinstance(problem, UserError) else None
        try:
            self.close()
        except UserError as failure:
            # Whatever was wrong with what a command printed, that it failed is the better explanation.
            if self._ended and isinstance(problem, UserError):
                raise failure from problem
            return
        if better is not None:
            raise better from problem

    def misfit(self, problem: str = "") -> UserError | None:
        """What to raise in place of another error, ``problem``, if the file is of another kind than expected."""
        if self.expected is None or self._failed or (self._closed and self._size is not None):
            return None
        first = self._first if self._size is None else os.pread(self._raw.fileno(), FIRST_BYTES, self._start)
        text = misfit(first, self.name, self.expected, self._origin(), problem=problem, start=self._start)
        return None if text is None else UserError(text)

    def refuse_misfit(self, even_if_uncertain: bool = False) -> None:
        """Raise UserError if what comes next, at the start, can only be of another kind than expected."""
        if self.expected is not None:
            judge = misfit if even_if_uncertain else certain_misfit
            text = judge(self.first_piece(), self.name, self.expected, self._origin())
            if text is not None:
                self.expected = None  # said once
                raise UserError(text)

    def first_piece(self) -> bytes:
        """The first bytes of what comes next, as many as are there: for more of a pipe there might be a wait."""
        self.peek(1)
        return self._buffer[self._position : self._position + FIRST_BYTES]

    def _origin(self) -> Origin:
        if self._process is not None:
            return Origin.COMMAND
        return Origin.STANDARD_INPUT if self.name == _STANDARD_INPUT else Origin.FILE

    def tell(self) -> int:
        """The next byte's place, counted from the start of the file (of the stream, for a pipe)."""
        return self._base + self._position

    def error(self, text: str, at: int | None = None) -> UserError:
        """An error to raise that says where reading stands (or stood, with ``at``)."""
        return UserError(f"{self.name}, byte {self.tell() if at is None else at}: {text}")

    def _fill(self, wanted: int) -> int:
        """Buffer ``wanted`` bytes ahead if there are as many; returns how many there are."""
        have = len(self._buffer) - self._position
        if have >= wanted or self._ended:
            return have
        pieces = [self._buffer[self._position :]]
        self._base += self._position
        self._position = 0
        while have < wanted and not self._ended:
            piece = self._read_raw(max(self._piece, min(wanted - have, 16 * _LARGEST_PIECE)))
            self._piece = min(2 * self._piece, _LARGEST_PIECE)
            pieces.append(piece)
            have += len(piece)
        self._buffer = b"".join(pieces)
        return have

    def _read_raw(self, size: int) -> bytes:
        try:
            piece = self._raw.read(size)
        except OSError as problem:
            raise self.error(f"cannot read: {reason(problem)}.") from problem
        if not piece:
            self._ended = True
        elif self._size is None and len(self._first) < FIRST_BYTES:
            self._first += piece[: FIRST_BYTES - len(self._first)]
        return piece

    def _require(self, wanted: int) -> None:
        """Buffer ``wanted`` bytes, or say that the file ends too early, before memory is taken for them."""
        have = len(self._buffer) - self._position
        if have >= wanted:
            return
        if self._size is not None and self.tell() + wanted > self._size:
            raise self._truncated(wanted, max(self._size - self.tell(), 0))
        have = self._fill(wanted)
        if have < wanted:
            raise self._truncated(wanted, have)

    def _truncated(self, wanted: int, found: int) -> UserError:
        place = self.tell()
        if self._process is not None:
            self.close()  # a command that failed is the better explanation
        return self.error(f"the data end too early: expected {wanted} more bytes, found {found}. Is it cut off?", place)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; a :class:`UserError` that names the file and the byte where there are fewer."""
        start = self._position
        end = start + size
        if end > len(self._buffer):
            self._require(size)
            start = self._position
            end = start + size
        self._position = end
        return self._buffer[start:end]

    def read_some(self, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        size = min(size, self._fill(size))
        return self.read(size)

    def skip(self, size: int) -> int:
        """Pass over ``size`` bytes without keeping them; returns how many there were, fewer only at the end."""
        passed = min(size, len(self._buffer) - self._position)
        self._position += passed
        if passed < size and self._size is not None:  # the buffer is used up
            try:
                further = max(0, min(size - passed, self._size - self._raw.tell()))
                self._raw.seek(further, os.SEEK_CUR)
            except OSError as problem:
                raise self.error(f"cannot read: {reason(problem)}.") from problem
            self._base += self._position + further
            self._buffer = b""
            self._position = 0
            return passed + further
        while passed < size and (piece := self.read_some(min(size - passed, _LARGEST_PIECE))):
            passed += len(piece)
        return passed

    def read_array(self, dtype: Any, count: int) -> NDArray[Any]:
        """``count`` numbers of a NumPy type as they lie in memory; the array can be written to."""
        kind = np.dtype(dtype)
        size = count * kind.itemsize
        if size > _LARGEST_PIECE and self._size is not None and self.tell() + size <= self._size:
            return self._read_large(kind, count, size)
        if size > len(self._buffer) - self._position:
            self._require(size)
        array = np.frombuffer(self._buffer, kind, count, self._position).copy()
        self._position += size
        return array

    def _read_large(self, kind: np.dtype[Any], count: int, size: int) -> NDArray[Any]:
        """An array that the file is known to be long enough for, filled in place: it is not held twice."""
        array = np.empty(count, kind)
        target = array.view(np.uint8)
        have = min(len(self._buffer) - self._position, size)
        target[:have] = np.frombuffer(self._buffer, np.uint8, have, self._position)
        self._position += have
        while have < size:  # the buffer is used up
            try:
                count = self._raw.readinto(target[have:])  # type: ignore[attr-defined]  # an unbuffered file has it
            except OSError as problem:
                raise self.error(f"cannot read: {reason(problem)}.") from problem
            if not count:  # the file has become shorter since it was opened
                raise self._truncated(size, have)
            have += count
            self._base += count
        return array

    def peek(self, size: int) -> bytes:
        """Up to ``size`` of the next bytes, which stay to be read."""
        start = self._position
        if start + size > len(self._buffer):
            self._fill(size)
            start = self._position
        return self._buffer[start : start + size]

    def at_end(self) -> bool:
        """Whether nothing is left to read."""
        return self._position >= len(self._buffer) and self._fill(1) == 0

    def skip_space(self) -> None:
        """Pass over blanks, tabs and line ends."""
        while True:
            match = _SPACE.match(self._buffer, self._position)
            assert match is not None
            self._position = match.end()
            if self._position < len(self._buffer) or self._fill(1) == 0:
                return

    def read_word(self) -> bytes:
        """The next characters up to white space, which stays unread; leading white space is passed over.

        Empty at the end of the data.
        """
        match = _WORD.match(self._buffer, self._position)
        if match is None:
            self.skip_space()
            wanted = 256
            while match is None:
                have = self._fill(wanted)
                match = _WORD.match(self._buffer, self._position)
                if match is None and have < wanted:  # the data end with the word, or before it
                    word = self._buffer[self._position :]
                    self._position = len(self._buffer)
                    return word
                if wanted > _LONGEST_WORD:
                    raise self.error(f"expected a word, found {_LONGEST_WORD} bytes without white space.")
                wanted *= 4
        self._position = match.end(1)
        return match[1]

    def take_match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """What comes next, if it matches and all of it is in the buffer; nothing is consumed otherwise."""
        match = pattern.match(self._buffer, self._position)
        if match is not None:
            self._position = match.end()
        return match

    def readline(self, stop: bytes = b"\n") -> bytes:
        """The bytes up to and with the next line end, or the byte ``stop`` if that comes first.

        Fewer at the end of the data; empty there.
        """
        wanted = 1
        while True:
            have = self._fill(wanted)
            end = self._buffer.find(b"\n", self._position) + 1
            if stop != b"\n":
                end = self._buffer.find(stop, self._position, end or len(self._buffer)) + 1 or end
            if end or have < wanted:
                end = end or len(self._buffer)
                line = self._buffer[self._position : end]
                self._position = end
                return line
            if have > _LONGEST_LINE:
                raise self.error(f"expected lines of text, found {_LONGEST_LINE} bytes without a line end.")
            wanted = have + max(have, _FIRST_PIECE)

    def seek(self, offset: int) -> None:
        """Go to a byte of the file.

        Raises:
            UserError: the stream is a pipe, or the file ends before the byte.
        """
        self._start = offset
        if self._base <= offset <= self._base + len(self._buffer):
            self._position = offset - self._base
            return
        if self._size is None:
            raise UserError(f"{self.name} is not a file, so that reading cannot start at its byte {offset}.")
        if offset > self._size:
            raise UserError(f"{self.name} has {self._size} bytes, expected data at its byte {offset}. Is it complete?")
        self._raw.seek(offset)
        self._buffer = b""
        self._position = 0
        self._base = offset
        self._piece = _FIRST_PIECE
        self._ended = False

    def close(self) -> None:
        """Close the file or wait for the command.

        Raises:
            UserError: the command whose output this is failed.
        """
        if self._closed:
            return
        self._closed = True
        self._raw.close()
        if self._process is None:
            return
        status = self._process.wait()
        unheard = not self._ended and status in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
        if status != 0 and not unheard:
            self._failed = True
            raise UserError(f"The command {self.name!r} {_ending(status)}; what it printed is not complete.")


class Sink:
    """Bytes written in order to a file, a pipe or standard output; a context manager.

    Leaving it without an exception completes the file (:meth:`close`); with one, what was written is thrown away.

    Attributes:
        name: what messages call it.
    """

    def __init__(
        self,
        raw: IO[bytes],
        name: str,
        *,
        temporary: str | None = None,
        target: str | None = None,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """Write to ``raw``; with ``temporary``, that file becomes ``target`` in the end."""
        self.name = name
        self._raw = raw
        self.temporary = temporary
        self._target = target
        self._process = process
        self._written = 0
        self._ready = False

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if getattr(self, "temporary", None) is not None:
            self.discard()

    def tell(self) -> int:
        """How many bytes have been written."""
        return self._written

    @property
    def is_file(self) -> bool:
        """Whether this is a file that offsets into it can be given for."""
        return self._target is not None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            UserError: the disk is full, or the command that reads them has ended.
        """
        try:
            self._raw.write(data)
        except OSError as problem:
            raise self._failure(problem) from problem
        self._written += len(data)

    def flush(self) -> None:
        """Hand what was written to the operating system, for a reader that waits for it."""
        try:
            self._raw.flush()
        except OSError as problem:
            raise self._failure(problem) from problem

    def _failure(self, problem: OSError) -> Exception:
        if isinstance(problem, BrokenPipeError) and self._process is None:
            return problem  # the reader of standard output has gone: the program ends without a word
        if self._process is not None:
            status = self._process.wait()
            return UserError(f"The command {self.name!r} {_ending(status)} before it had read all its input.")
        return UserError(f"Cannot write {self.name}: {reason(problem)}.")

    def prepare(self) -> None:
        """Bring everything to the disk; the file still has its temporary name."""
        if self._ready:
            return
        try:
            self._raw.flush()
            if self.temporary is not None:
                os.fsync(self._raw.fileno())
            self._raw.close()
        except OSError as problem:
            error = self._failure(problem)
            self.discard()
            raise error from problem
        self._ready = True

    def close(self) -> None:
        """Complete the file: everything on the disk, under its own name; or wait for the command.

        Raises:
            UserError: the disk is full, the file cannot be put in place, or the command failed.
        """
        self.prepare()
        temporary, self.temporary = self.temporary, None
        if temporary is not None:
            assert self._target is not None
            try:
                os.replace(temporary, self._target)
                temporary_files.forget(temporary)
            except OSError as problem:
                temporary_files.remove(temporary)
                raise UserError(f"Cannot put {self.name} in its place: {reason(problem)}.") from problem
        process, self._process = self._process, None
        if process is not None:
            status = process.wait()
            if status != 0:
                raise UserError(f"The command {self.name!r} {_ending(status)}.")

    def discard(self) -> None:
        """Throw away what was written to a file; a command's input just ends."""
        temporary, self.temporary = self.temporary, None
        self._ready = True
        with contextlib.suppress(OSError):
            self._raw.close()
        if temporary is not None:
            temporary_files.remove(temporary)
        process, self._process = self._process, None
        if process is not None:
            process.wait()


def _ending(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"


def _regular_file_size(raw: IO[bytes]) -> int | None:
    try:
        status = os.fstat(raw.fileno())
    except (OSError, AttributeError, ValueError):  # bytes in memory
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _refuse_table(name: str, use: str) -> None:
    if name[:1] in ("a", "s") and _TABLE.match(name):
        raise UserError(
            f"Expected the name of one file to {use}, found the table {name!r}: leave out what is before ':'."
        )


def split_offset(rxfilename: str) -> tuple[str, int]:
    """``file:1234`` as the file's name and the byte; a name without an offset has 0."""
    match = _OFFSET.fullmatch(rxfilename)
    if match is None:
        return rxfilename, 0
    return match[1], int(match[2])


def open_input(rxfilename: str, expected: Expected | None = None) -> Source:
    """Open what a rxfilename names; ``expected`` is for messages about files that are something else.

    Raises:
        UserError: it is not a rxfilename, the file cannot be opened, or it is shorter than the offset.
    """
    if rxfilename in ("", "-"):
        return Source(open(0, "rb", buffering=0, closefd=False), _STANDARD_INPUT, expected=expected)
    if rxfilename.startswith("|"):
        raise UserError(f"Expected something to read, found {rxfilename!r}: a command to read from ends with '|'.")
    if rxfilename.endswith("|"):
        return _open_command(rxfilename, expected)
    if rxfilename != rxfilename.strip(BLANKS):
        raise UserError(f"Expected a file to read, found {rxfilename!r}: a name has no blank at its start or end.")
    _refuse_table(rxfilename, "read")
    path, offset = split_offset(rxfilename)
    if "|" in path and not os.path.exists(path):
        raise UserError(f"Cannot open {rxfilename!r}: a command to read from has its '|' at the end.")
    try:
        raw = open(path, "rb", buffering=0)  # noqa: SIM115
    except (OSError, ValueError) as problem:
        if isinstance(problem, IsADirectoryError) and expected is not None:
            raise UserError(_about_directory(path, expected)) from problem
        raise UserError(f"Cannot open {rxfilename} to read: {reason(problem)}.") from problem
    source = Source(raw, path, expected=expected)
    if offset:
        source.seek(offset)
    return source


def _about_directory(path: str, expected: Expected) -> str:
    there = [name for name in expected.usual_names if os.path.isfile(os.path.join(path, name))]
    advice = f"is it {os.path.join(path, there[0])}?" if there else "give a file."
    return f"{path}: expected {expected.what}, found a directory: {advice}"


def _open_command(rxfilename: str, expected: Expected | None) -> Source:
    command = rxfilename[:-1].strip(BLANKS)
    if not command:
        raise UserError("Expected a command before '|', found none.")
    process = _start(command, rxfilename, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    return Source(process.stdout, rxfilename, process=process, expected=expected)


def _start(command: str, name: str, **options: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, shell=True, **options)
    except (OSError, ValueError) as problem:
        raise UserError(f"Cannot start the command {name!r}: {reason(problem)}.") from problem


def open_output(wxfilename: str) -> Sink:
    """Open what a wxfilename names; a file appears under its name only when the sink is closed.

    Raises:
        UserError: it is not a wxfilename, or the file cannot be made.
    """
    _check_wxfilename(wxfilename)
    if wxfilename in ("", "-"):
        sys.stdout.flush()
        return Sink(open(1, "wb", buffering=1 << 16, closefd=False), "standard output")
    if wxfilename.startswith("|"):
        return _open_reader_command(wxfilename)
    try:
        return _open_file(wxfilename)
    except (OSError, ValueError) as problem:
        raise UserError(f"Cannot open {wxfilename} to write: {reason(problem)}.") from problem


def require_writable(wxfilename: str) -> None:
    """Raise UserError if :func:`open_output` could not make the file: to be asked before work that takes long."""
    _check_wxfilename(wxfilename)
    if wxfilename in ("", "-") or wxfilename.startswith("|"):
        return
    try:
        status = _status_of_target(wxfilename)
        folder = os.path.dirname(os.path.realpath(wxfilename))
        if not os.path.isdir(folder):
            raise FileNotFoundError(None, "No such file or directory")
        if (status is None or _is_replaced(wxfilename, status)) and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "Permission denied")
    except (OSError, ValueError) as problem:
        raise UserError(f"Cannot open {wxfilename} to write: {reason(problem)}.") from problem


def _check_wxfilename(wxfilename: str) -> None:
    """Refuse what is not a wxfilename."""
    if wxfilename in ("", "-"):
        return
    if wxfilename.startswith("|"):
        if not wxfilename[1:].strip(BLANKS):
            raise UserError("Expected a command after '|', found none.")
        return
    if wxfilename.endswith("|"):
        raise UserError(f"Expected something to write, found {wxfilename!r}: a command to write to starts with '|'.")
    if wxfilename != wxfilename.strip(BLANKS):
        raise UserError(f"Expected a file to write, found {wxfilename!r}: a name has no blank at its start or end.")
    _refuse_table(wxfilename, "write")
    if _OFFSET.fullmatch(wxfilename):
        raise UserError(f"Cannot write {wxfilename!r}: a file name that ends like an offset could not be read back.")
    if "|" in wxfilename:
        raise UserError(f"Cannot write {wxfilename!r}: a command to write to has its '|' at the start.")


def _open_reader_command(wxfilename: str) -> Sink:
    command = wxfilename[1:].strip(BLANKS)
    if threading.current_thread() is threading.main_thread():
        # A command that stops reading is to be reported; without this the signal would end the program in silence.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    process = _start(command, wxfilename, stdin=subprocess.PIPE, bufsize=1 << 16)
    assert process.stdin is not None
    return Sink(process.stdin, wxfilename, process=process)


def _open_file(path: str) -> Sink:
    status = _status_of_target(path)
    if status is not None and not _is_replaced(path, status):
        return Sink(open(path, "wb", buffering=1 << 16), path)
    mode = None if status is None else stat.S_IMODE(status.st_mode)
    target = os.path.realpath(path)  # a link to another disk stays a link
    temporary = temporary_files.beside(target)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    if mode is not None:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)
    return Sink(open(descriptor, "wb", buffering=1 << 18), path, temporary=temporary, target=target)


def _status_of_target(path: str) -> os.stat_result | None:
    """What is there already, if something is; raises OSError if it must not be written."""
    if not os.path.exists(path):
        return None
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(None, "Is a directory")
    if not os.access(path, os.W_OK):
        raise PermissionError(None, "Permission denied")
    return status


def _is_replaced(path: str, status: os.stat_result) -> bool:
    """Whether a new file takes the place of this one; devices, fifos and the like are written into."""
    return stat.S_ISREG(status.st_mode) and not path.startswith(("/dev/", "/proc/"))

"""Files that a command line names are looked at before any work is done, in every program."""

from __future__ import annotations

import importlib.machinery
import os
import re
import signal
import subprocess
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.named_arguments import require_files
from nnet3py.tables.named_files import require_input, require_output, require_output_folder

BIN = Path(__file__).parents[2] / "bin"
PROGRAMS = sorted(path.name for path in BIN.iterdir() if path.is_file() and not path.name.startswith("run-"))
PRINTING = ("hmm-info", "nnet-am-info", "nnet-compute-prob", "nnet-info", "nnet-show-progress", "tree-info")


@pytest.fixture
def signals_are_put_back() -> Iterator[None]:
    """A program run within the tests' process changes what some signals do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP)}
    showing = warnings.showwarning
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    warnings.showwarning = showing


def looked_at(metavar: str, names: tuple[str, ...]) -> list[str]:
    """What is complained about, one name after the other being made, in the order of the complaints."""
    parameter = click.Argument(["names"], metavar=metavar, nargs=-1)
    complaints: list[str] = []
    while len(complaints) < len(names):
        try:
            require_files([parameter], {"names": names})
        except UserError as problem:
            complaints += [
                f"{how} {path}" for path, how in re.findall(r"Cannot open (\S+) to (read|write)", str(problem))
            ]
            how, path = complaints[-1].split()
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            if how == "read":
                Path(path).touch()
        else:
            break
    return complaints


@pytest.mark.parametrize(
    ("metavar", "names", "expected"),
    [
        ("<model-in1> ... <model-inN> <model-out>", ("a", "b", "new/c"), ["read a", "read b", "write new/c"]),
        (
            "<model-in1> ... <model-inN> <examples-in> <model-out>",
            ("a", "ark:b", "new/c"),
            ["read a", "read b", "write new/c"],
        ),
        (
            "<egs-rspecifier> ... <egs-wspecifier> ...",
            ("ark:a", "ark:b", "ark:n/c", "ark:m/d"),
            ["read a", "read b", "write n/c", "write m/d"],
        ),
        ("<egs-wspecifier> ...", ("ark:n/a", "ark:m/b"), ["write n/a", "write m/b"]),
        ("[<existing-model-in>] <config-in> <model-out>", ("a", "new/b"), ["read a", "write new/b"]),
        ("<lda-stats-in> ...", ("a", "b"), ["read a", "read b"]),
        ("<data-dir> ...", ("a",), []),
    ],
)
def test_metavars_say_what_is_read_and_what_is_written(
    metavar: str, names: tuple[str, ...], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert looked_at(metavar, names) == expected


@pytest.mark.parametrize(
    "name",
    [
        "-",
        "",
        "no such thing |",
        "ark:-",
        "ark:no such thing |",
        "scp:no |",
        "ark,p:missing",
        "file",
        "file:3",
        "ark:file",
    ],
)
def test_what_is_no_file_or_is_there_passes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    require_input(name)


@pytest.mark.parametrize(
    "name", ["missing", "missing:12", "ark:missing", "ark,s,cs:missing", "scp:missing", "hdf5:missing"]
)
def test_an_input_that_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"Cannot open missing(:12)? to read: No such file or directory"):
        require_input(name)


@pytest.mark.parametrize("name", ["no/x", "ark:no/x", "ark,scp:x,no/x", "hdf5:no/x"])
def test_an_output_without_a_folder_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Cannot open no/x to write: No such file or directory"):
        require_output(name)
    require_output(name.replace("no/", ""))


def test_a_folder_that_cannot_be_written_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    require_output_folder("new/folder")
    require_output_folder(".")
    with pytest.raises(UserError, match=r"Cannot write into file/a: \S+/file is not a directory"):
        require_output_folder("file/a")


def command_of(program: str) -> tuple[Callable[..., None], list[click.Parameter]]:
    """A program's entry point and its parameters."""
    loader = importlib.machinery.SourceFileLoader(program.replace("-", "_"), str(BIN / program))
    module = types.ModuleType(loader.name)
    loader.exec_module(module)
    return module.main, module.main.command.params


def arguments_of(parameters: list[click.Parameter]) -> list[tuple[str, str]]:
    """What stands for each of a program's arguments: ``model-in`` and a name."""
    found = []
    for parameter in parameters:
        if isinstance(parameter, click.Argument):
            assert parameter.metavar is not None
            for word in re.findall(r"<([^>]+)>", parameter.metavar):
                name = f"file{len(found)}"
                found.append((word.rstrip("0123456789N"), f"ark:{name}" if word.endswith("specifier") else name))
    return found


@pytest.mark.usefixtures("signals_are_put_back")
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_names_an_input_that_is_missing_before_it_reads_another(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "_program_name", "")
    main, parameters = command_of(program)
    required = [f"{each.opts[0]}=1" for each in parameters if isinstance(each, click.Option) and each.required]
    arguments = arguments_of(parameters)
    inputs = [name for word, name in arguments if re.search(r"(^|-)(in|rspecifier|rxfilename|stats)$", word)]
    outputs = [name for word, name in arguments if re.search(r"(^|-)(out|wspecifier|wxfilename)$", word)]
    assert len(inputs) + len(outputs) == len(arguments), "an argument's metavar does not say whether it is read"
    for missing in inputs:
        for name in inputs:
            Path(name.removeprefix("ark:")).write_bytes(b"nothing of any kind")
        Path(missing.removeprefix("ark:")).unlink()
        with pytest.raises(SystemExit) as ending:
            main(args=["--print-args=false", *required, *(name for _, name in arguments)])
        assert ending.value.code == 1
        said = capfd.readouterr().err
        assert f"Cannot open {missing.removeprefix('ark:')} to read: No such file or directory." in said
        assert said.count("\n") == 1
        assert not [name for name in outputs if Path(name.removeprefix("ark:")).exists()]


@pytest.mark.usefixtures("signals_are_put_back")
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program not in PRINTING])
def test_every_program_names_an_output_that_cannot_be_before_it_reads_an_input(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "_program_name", "")
    main, parameters = command_of(program)
    required = [f"{each.opts[0]}=1" for each in parameters if isinstance(each, click.Option) and each.required]
    words = []
    for word, name in arguments_of(parameters):
        if re.search(r"(^|-)(out|wspecifier|wxfilename)$", word):
            name = name.replace("file", "no/file")
        else:
            Path(name.removeprefix("ark:")).write_bytes(b"nothing of any kind")
        words.append(name)
    with pytest.raises(SystemExit) as ending:
        main(args=["--print-args=false", *required, *words])
    assert ending.value.code == 1
    assert re.search(r"Cannot open no/file\d to write: No such file or directory\.$", capfd.readouterr().err.strip())


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_for_a_file_says_whether_it_is_read(program: str) -> None:
    for each in command_of(program)[1]:
        if isinstance(each, click.Option) and each.expose_value and each.opts[0] != "--config":
            assert each.metavar != "FILE", each.opts


def test_an_options_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for option, says in (
        ("--start-model=no", "Cannot open no to read"),
        ("--velocity-out=no/x", "Cannot open no/x to write"),
    ):
        done = subprocess.run(
            [BIN / "nnet-average", option, "a", "a", "b"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert says in done.stderr

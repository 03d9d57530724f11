"""Kaldi's command-line conventions on top of click: what every program in bin/ has in common.

``program [options] <in> <out>``: options come before arguments; ``--name=value`` and ``--name value`` are the same;
dashes and underscores in names are the same; switches take ``true`` or ``false`` and a bare ``--switch`` is true;
``--config=FILE`` reads options from a file, one ``--name=value`` a line, ``#`` starting a comment;
``--print-args=false`` stops the command line from being echoed; ``--verbose=N``; ``--version``; ``--help``. A
:class:`~nnet3py.errors.UserError` becomes one ERROR message and exit status 1. SIGTERM, SIGHUP and Ctrl-C leave no
unfinished files.

Source: Kaldi src/util/parse-options.cc.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

# One thread in the BLAS unless the user says otherwise: jobs share a machine, and the order of a product's sums, hence
# the last bits of the result, depends on the number of threads. It must be set before NumPy is first imported.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
for _variable in _BLAS_THREADS:
    os.environ.setdefault(_variable, "1")

import click  # noqa: E402

from nnet3py import __version__, log, temporary_files  # noqa: E402
from nnet3py.errors import UserError, reason  # noqa: E402
from nnet3py.text.any_locale import use_utf8  # noqa: E402

argument = click.argument
option = click.option


def use_one_blas_thread() -> None:
    """Whatever the environment says: for a program that has threads of its own, before NumPy is first imported."""
    os.environ.update(dict.fromkeys(_BLAS_THREADS, "1"))


def option_without_effect(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """An option of Kaldi's program that has no meaning here; the program's function does not get it."""
    help_text = "Accepted, because Kaldi's scripts give it; has no effect."
    return option(*names, expose_value=False, help=help_text, **settings)


_FILE_METAVAR = re.compile(r"-?(?:in|out|[rw]specifier|[rw]xfilename)[0-9N]*>|^[RW](?:SPECIFIER|XFILENAME)$")
_STANDARD_OPTIONS = ("config", "print_args", "verbose")


class _KaldiCommand(click.Command):
    """A click command that reads its command line by Kaldi's rules and prints help in Kaldi's shape."""

    usage_line: str
    example: str

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = self._normalised(ctx, args)
        rest = super().parse_args(ctx, words)
        ctx.obj = words
        return rest

    def _options(self, ctx: click.Context) -> dict[str, click.Option]:
        found = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option):
                for spelling in parameter.opts:
                    found[spelling] = parameter
        return found

    def _normalised(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Every option as ``--name=value``, configuration files expanded in place, arguments after ``--``."""
        known = self._options(ctx)
        out: list[str] = []
        position = 0
        while position < len(args):
            word = args[position]
            if word == "--":
                position += 1
                break
            if word == "-h":
                word = "--help"
            if not word.startswith("--"):
                break
            position += 1
            name, equals, value = word.partition("=")
            name = "--" + name[2:].replace("_", "-")
            if name in ("--help", "--version"):
                return [name]
            match = known.get(name)
            if match is None:
                out.append(name + equals + value)  # click names it as unknown and suggests near ones
                continue
            if not equals:
                is_switch = match.type is SWITCH
                following = args[position] if position < len(args) else None
                if is_switch and following not in ("true", "false"):
                    value = "true"
                elif following is None:
                    raise UserError(f"Option {name} needs a value: write {name}=VALUE.")
                else:
                    value = following
                    position += 1
            elif match.type is SWITCH and value == "":
                value = "true"
            if name == "--config":
                out.extend(self._normalised(ctx, _read_config_file(value)))
                out.pop()  # the "--" that ends a normalised list
            else:
                out.append(f"{name}={value}")
        out.append("--")
        return out + args[position:]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"Usage: {self.usage_line}\n")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\ne.g.: {self.example}\n")


class _Switch(click.types.BoolParamType):
    """Kaldi's boolean: the words true and false (t, f, 1, 0 as Kaldi accepts them)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        if value.lower() not in ("true", "t", "1", "false", "f", "0"):
            self.fail(f"{value!r} is not true or false", param, ctx)
        return value.lower() in ("true", "t", "1")


_LARGEST_NUMBER = 3.4028234663852886e38
SWITCH = _Switch()


def _in_kaldis_range(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """An option's value, unless it is no integer of 32 bits, or no number of single precision (infinity is one)."""
    is_seed = str(parameter.name).endswith(("srand", "seed"))  # any integer is one
    if isinstance(value, int) and not is_seed and not -(1 << 31) <= value < 1 << 31:
        raise click.BadParameter(f"{value} is not an integer of 32 bits.", ctx, parameter)
    if isinstance(value, float) and (value != value or _LARGEST_NUMBER < abs(value) < float("inf")):
        raise click.BadParameter(f"{value:g} is not a number of single precision.", ctx, parameter)
    return value


def _read_config_file(path: str) -> list[str]:
    from nnet3py.text.expectation import Expected, refuse_misfit
    from nnet3py.text.lines import BLANKS, decode, lines_of

    words = []
    try:
        with open(path, "rb") as file:
            data = file.read()
        refuse_misfit(data, path, Expected("a configuration file", form=None, takes_commands=False))
        for number, line in enumerate(lines_of(decode(data)), 1):
            text = line.split("#", 1)[0].strip(BLANKS)
            if not text:
                continue
            if not text.startswith("--"):
                raise UserError(f"{path}:{number}: expected an option --name=value, found {text!r}.")
            name, equals, value = text.partition("=")
            words.append(name.strip(BLANKS) + equals + value.strip(BLANKS))
    except OSError as problem:
        raise UserError(f"Cannot read the configuration file {path}: {reason(problem)}.") from problem
    return words


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"{ctx.info_name} of nnet3py {__version__}")
        ctx.exit()


def program(*, usage: str, example: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a function with click options and arguments into a program's entry point.

    The function's docstring is the help text: what the program does, what it reads and writes, and the name of its
    Kaldi counterpart. ``usage`` is the line after "Usage:", ``example`` one command that works. The function may
    return an exit status; ``None`` is 0.
    """

    def decorate(function: Callable[..., int | None]) -> Callable[..., None]:
        name = usage.split()[0]
        parameters = [
            *reversed(getattr(function, "__click_params__", [])),
            click.Option(["--config"], metavar="FILE", help="Read options from FILE, one --name=value a line."),
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_print_version,
                help="Print the version and exit.",
            ),
            click.Option(["--print-args"], type=SWITCH, default=True, help="Echo the command line on standard error."),
            click.Option(["--verbose"], type=int, default=0, metavar="N", help="More messages, up to N=4."),
        ]
        command = _KaldiCommand(
            name,
            params=[_with_kaldis_type(parameter) for parameter in parameters],
            help=function.__doc__,
            context_settings={
                "allow_interspersed_args": False,
                "show_default": True,
                "help_option_names": ["--help"],
                "max_content_width": 120,
                "terminal_width": 120,
            },
        )
        command.usage_line = usage
        command.example = example

        def run(*, args: list[str] | None = None) -> None:
            if args is None:
                use_utf8()
            called_as = name if args is not None else os.path.basename(sys.argv[0])  # nnet3-copy, say, for a link
            sys.exit(_run(command, function, sys.argv[1:] if args is None else args, called_as))

        run.command = command  # type: ignore[attr-defined]
        run.__doc__ = function.__doc__
        return run

    return decorate


def _with_kaldis_type(parameter: click.Parameter) -> click.Parameter:
    if isinstance(parameter.type, click.types.BoolParamType):
        parameter.type = SWITCH
    elif isinstance(parameter.type, (click.types.IntParamType, click.types.FloatParamType)):
        assert parameter.callback is None, parameter.name
        parameter.callback = _in_kaldis_range
    return parameter


def _require_files(command: _KaldiCommand, values: dict[str, Any]) -> None:
    """Name an input that is missing, or an output that cannot be written, before any work is done."""
    metavars = (parameter.metavar or "" for parameter in command.params)
    if any(_FILE_METAVAR.search(metavar) for metavar in metavars):  # what follows imports NumPy
        from nnet3py.named_arguments import require_files

        require_files(command.params, values)


def _run(command: _KaldiCommand, function: Callable[..., int | None], args: list[str], called_as: str) -> int:
    log.set_program_name(called_as)
    warnings.showwarning = log.python_warning
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `nnet-compute ... | head` ends quietly, as Kaldi's programs do
    temporary_files.remove_on_signals()
    try:
        with command.make_context(command.name, list(args)) as context:
            values = dict(context.params)
            log.set_verbose_level(values["verbose"])
            if values["print_args"]:
                words = [called_as, *args]
                sys.stderr.write(" ".join(shlex.quote(word) for word in words) + "\n")
            for name in _STANDARD_OPTIONS:
                del values[name]
            if values.get("num_threads", 1) != 1:  # threads of its own, for which an engine lets the BLAS have as many
                use_one_blas_thread()
            _require_files(command, values)
            status = function(**values)
            sys.stdout.flush()
            return int(status or 0)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.UsageError as problem:
        text = f"{problem.format_message()} Usage: {command.usage_line} (--help says more)."
        log.error(text, place=log.place_of(function.__code__))
    except UserError as problem:
        log.error(str(problem), problem)
    except KeyboardInterrupt:
        temporary_files.remove_all()
        log.error("Interrupted.")
        return 130
    except BrokenPipeError:
        return 141
    except MemoryError:
        log.error("Out of memory: give the job more, or a smaller minibatch, chunk or model.")
    except OSError as problem:
        where = f" {problem.filename}" if problem.filename else ""
        log.error(f"The operating system refused:{where} {reason(problem)}.", problem)
    finally:
        temporary_files.stop_looking()
    return 1
